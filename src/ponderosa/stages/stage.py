"""What a stage is: a name, a version, a configuration, and one function that fills a folder.

A stage reads only its configuration and the folders of the stages it names; it writes only its own folder. Raise
`version` when a change makes a stage's output different for the same configuration: finished folders of the old
version are then left alone and the stage is done again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, cast

from ponderosa.config import Config, suggest
from ponderosa.errors import ConfigError
from ponderosa.ledger import Ledger
from ponderosa.progress import Observer, Progress, ignore_line

UNFINISHED = ("journal.jsonl", "checkpoint.safetensors", "seconds*.json", "tracked-*.json")
"""Files that only a continued run needs. The pipeline removes them when the stage is done, never before: a stage
killed just short of its end then has nothing to do again."""


class Need(NamedTuple):
    """A stage whose folder another reads, and the product (see `PRODUCTS`) that is looked for there."""

    stage: str
    product: str


class Draw(NamedTuple):
    """Problems that a stage draws: the task's name, and which split."""

    task: str
    split: str


class StageConfig(Config):
    """Base of every stage's configuration."""

    def needs(self) -> tuple[Need, ...]:
        return ()

    def hash_inputs(self, base: Path) -> dict[str, str]:
        """Content hashes of what the stage reads from outside the run (files, user code), by the name its
        configuration gives it; `base` is the recipe's folder. Raises RequestError if it is not to be had."""
        return {}

    def draws(self) -> tuple[Draw, ...]:
        """What problems the stage will draw, so that their files can be looked for before anything is run."""
        return ()

    def find_missing(self) -> str | None:
        """KEY=VALUE and what is meant by it, if something must still be given before the stage can run; plans do
        without."""
        return None

    def keep_problems(self, seed: int) -> Self:
        """The same at another training seed, measuring on the problems drawn by `seed`, a recipe's first."""
        return self


@dataclass(slots=True)
class Context:
    """Where a stage works and what it may use.

    folder: its own folder. inputs: folder of each stage it needs, by name. base: the recipe's folder. observe: of its
    training steps.
    """

    name: str
    folder: Path
    inputs: Mapping[str, Path]
    base: Path
    seed: int
    device: str
    dtype: str
    workers: int
    progress: Progress
    observe: Observer = ignore_line


@dataclass(slots=True)
class Outcome:
    """What a stage reports for its manifest: its cost, what it kept, and what it dropped and why."""

    ledger: Ledger = field(default_factory=Ledger)
    kept: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Stage(Protocol):
    """A stage as its module defines it."""

    VERSION: ClassVar[int]
    Config: ClassVar[type[StageConfig]]

    def run(self, config: Any, context: Context) -> Outcome:
        """Fill `context.folder`; called again after a kill, it continues to the same result."""
        ...


STAGES = {
    "solutions": "problems drawn, worked out in steps, executed and verified",
    "textbook": "running text for a base model: prose solutions, arithmetic, statements looked up",
    "tokenizer": "a byte-level BPE tokenizer trained on earlier stages' texts",
    "import_model": "an existing checkpoint, brought into the run",
    "pretrain": "a base model grown from nothing on packed text",
    "midtrain": "a model trained further on packed worked solutions",
    "sft": "a model fine-tuned on unpacked worked solutions, loss on what it writes",
    "rollout": "a model asked many times, every attempt executed, verified and kept",
    "search": "search trees grown by a model, every solution in them executed, verified and kept",
    "pairs": "correct attempts set against wrong ones, scored once by the reference model",
    "reward_model": "a model of which steps lead to right answers, learned from search trees",
    "pivotal": "single tokens over which a model's chance of success changes, as pairs",
    "dpo": "a model trained to prefer the better rollout of each pair",
    "rl": "a model trained on its own attempts by policy gradients with verifiable rewards",
    "tree_rl": "a model trained by policy gradients on the search trees it grew, each step by its own value",
    "evaluate": "a model measured on suites, with intervals and paired tests",
    "compare_strategies": "one model's strategies measured at equal token budgets, with paired tests",
    "step_errors": "a reward model measured by the first wrong steps it finds in labelled solutions",
}

PRODUCTS = {
    "solutions": "solutions",
    "textbook": "textbook",
    "tokenizer": "tokenizer",
    "import_model": "model",
    "pretrain": "model",
    "midtrain": "model",
    "sft": "model",
    "rollout": "rollouts",
    "search": "trees",
    "pairs": "pairs",
    "reward_model": "reward_model",
    "pivotal": "pairs",
    "dpo": "model",
    "rl": "model",
    "tree_rl": "model",
    "evaluate": "evaluation",
    "compare_strategies": "comparison",
    "step_errors": "step_errors",
}
"""What a stage of each kind leaves for others."""


def get_stage(kind: str) -> Stage:
    """The module of a stage kind. Raises ConfigError naming the nearest one."""
    if kind not in STAGES:
        raise ConfigError(f"no stage kind {kind!r}{suggest(kind, STAGES)}")
    return cast(Stage, import_module(f"ponderosa.stages.{kind}"))
