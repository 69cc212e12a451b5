"""A byte-level BPE tokenizer trained on what earlier stages wrote.

Writes tokenizer/ (a Hugging Face tokenizer directory).
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from ponderosa.stages.solutions import load_solutions
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.stages.textbook import load_chapters

VERSION = 1
FOLDER = "tokenizer"


class Config(StageConfig):
    """Which texts, and how many tokens."""

    vocab_size: int = Field(1024, ge=320, description="bytes, merges and 32 special tokens together")
    textbook: str | None = Field("textbook", description="textbook stage whose documents are read")
    solutions: tuple[str, ...] = Field((), description="solutions stages whose questions and steps are read")

    def needs(self) -> tuple[Need, ...]:
        textbook = (Need(self.textbook, "textbook"),) if self.textbook else ()
        return (*textbook, *(Need(name, "solutions") for name in self.solutions))


def run(config: Config, context: Context) -> Outcome:
    from ponderosa.training.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(read_texts(config, context.inputs), config.vocab_size)
    temporary = context.folder / f".{FOLDER}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(context.folder / FOLDER, ignore_errors=True)
    os.replace(temporary, context.folder / FOLDER)
    return Outcome(kept=len(tokenizer))


def read_texts(config: Config, inputs: Mapping[str, Path]) -> Iterator[str]:
    """Every text the tokenizer should be good at: the questions and solutions as they will be encoded."""
    if config.textbook:
        for chapter in load_chapters(inputs[config.textbook]):
            for pieces in chapter:
                yield from pieces
    for name in config.solutions:
        for problem, worked in load_solutions(inputs[name]):
            yield problem.question
            yield from (step.text for step in worked.steps)
