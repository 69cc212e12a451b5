"""Prompt formats: how a question is put to a model, and how that model writes solutions.

A format is saved in the model directory as `prompt_format.json` and read by solve, evaluate and training alike,
so a model is never asked in a form it was not taught. A directory without one is foreign: it gets its own chat
template and prose solutions.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ponderosa.errors import ConfigError
from ponderosa.steps import FENCED_DELIMITERS, SPECIAL_DELIMITERS, Delimiters, Example

FORMAT_FILE = "prompt_format.json"


class PromptFormat(BaseModel):
    """How a question becomes a prompt.

    layout: `plain` joins the parts below as text; `chat` uses the tokenizer's chat template.
    solution: `code` executes steps, `prose` reads text to its end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    layout: Literal["plain", "chat"] = "plain"
    solution: Literal["code", "prose"] = "prose"
    system: str | None = None
    few_shot: tuple[Example, ...] = ()
    question_prefix: str = "Question: "
    solution_prefix: str = "\nSolution:"
    example_separator: str = "\n\n"
    delimiters: Delimiters = SPECIAL_DELIMITERS

    def render_plain(self, question: str) -> str:
        """The plain-layout prompt as one string; it holds no special tokens."""
        parts = [f"{self.system}\n\n"] if self.system else []
        for example in self.few_shot:
            parts += [self.render_question(example.question), example.solution, self.example_separator]
        return "".join([*parts, self.render_question(question)])

    def render_question(self, question: str) -> str:
        return f"{self.question_prefix}{question}{self.solution_prefix}"


CHAT_PROSE = PromptFormat(name="chat", layout="chat", delimiters=FENCED_DELIMITERS)
CHAT_CODE = PromptFormat(
    name="chat-code",
    layout="chat",
    solution="code",
    system=(
        "Solve the problem step by step. In each step say why in a Python comment and compute in a ```python block; "
        "variables are kept between steps. When the answer is known, print it and give it in \\boxed{}."
    ),
    delimiters=FENCED_DELIMITERS,
)
PLAIN_PROSE = PromptFormat(name="plain")
PLAIN_CODE = PromptFormat(name="plain-code", solution="code")

FORMATS = {format.name: format for format in (PLAIN_PROSE, PLAIN_CODE, CHAT_PROSE, CHAT_CODE)}


def load_format(model_dir: Path) -> PromptFormat:
    """The format a model directory was saved with, or the foreign default.

    Raises ConfigError if the file is there but does not describe a format.
    """
    path = model_dir / FORMAT_FILE
    if not path.exists():
        return CHAT_PROSE
    try:
        return PromptFormat.model_validate(json.loads(path.read_text("utf-8")))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{path.name} in {model_dir.name} does not describe a prompt format: {error}"
        ) from error


def get_format(name: str) -> PromptFormat:
    """A shipped format by name. Raises ConfigError naming the ones there are."""
    if name not in FORMATS:
        raise ConfigError(f"unknown prompt format {name!r}; allowed: {', '.join(sorted(FORMATS))}")
    return FORMATS[name]
