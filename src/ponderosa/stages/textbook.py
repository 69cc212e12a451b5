"""Running text for a base model, in chapters.

Chapters are read in order; documents are shuffled within one. A document is a list of pieces that are encoded one
by one, because a prompt must end where a token ends: written as one string, the colon of "Solution:" and the line
break behind it would become a token that no prompt ends in. No document holds a step tag.

Writes documents.parquet.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field

from ponderosa.artifacts import read_table, write_table
from ponderosa.config import Config as BaseConfig
from ponderosa.config import parse_config
from ponderosa.errors import ConfigError
from ponderosa.formats import PLAIN_PROSE
from ponderosa.identity import derive_seed
from ponderosa.progress import track
from ponderosa.stages.solutions import load_solutions
from ponderosa.stages.stage import Context, Need, Outcome, StageConfig
from ponderosa.tasks.quantities.task import QuantitiesOptions
from ponderosa.tasks.quantities.textbook import write_arithmetic, write_copying

VERSION = 1
TABLE = "documents.parquet"


class Part(BaseConfig):
    """Documents of one kind within a chapter."""

    kind: Literal["copying", "arithmetic", "pages"] = Field(
        description="random words said twice, sums, or pages of problems with their prose solutions"
    )
    documents: int = Field(ge=1, description="how many documents")
    solutions: str | None = Field(None, description="pages: the solutions stage whose problems are told")
    max_operations: int | None = Field(None, description="pages: hardest problem to tell")
    problems_per_page: int = Field(1, ge=1, description="pages: problems on a page, drawn from 1 up to this")
    distinct_words: tuple[int, int] = Field(
        (30, 50), description="copying: fewest and most different words in a document; few make it hard"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="copying and sums: the quantities options"
    )


class Chapter(BaseConfig):
    """Documents that are shuffled together."""

    parts: tuple[Part, ...]


class Config(StageConfig):
    """What the textbook holds."""

    chapters: tuple[Chapter, ...]

    def needs(self) -> tuple[Need, ...]:
        parts = [part for chapter in self.chapters for part in chapter.parts]
        return tuple(Need(part.solutions, "solutions") for part in parts if part.solutions)


def run(config: Config, context: Context) -> Outcome:
    """Write every chapter. Fast enough to be done again from the start after a kill."""
    rows: list[dict[str, Any]] = []
    total = sum(part.documents for chapter in config.chapters for part in chapter.parts)
    with track(context.progress, "textbook", total, unit="documents") as bar:
        for number, chapter in enumerate(config.chapters):
            for index, part in enumerate(chapter.parts):
                seed = derive_seed("textbook", context.seed, number, index)
                for pieces in write_part(part, context.inputs, seed):
                    rows.append({"chapter": number, "kind": part.kind, "pieces": pieces})
                bar.advance(part.documents)
    write_table(context.folder / TABLE, rows)
    return Outcome(kept=len(rows))


def load_chapters(folder: Path) -> list[list[list[str]]]:
    """Documents (lists of pieces) of each chapter of a finished stage."""
    chapters: list[list[list[str]]] = []
    for row in read_table(folder / TABLE):
        while len(chapters) <= row["chapter"]:
            chapters.append([])
        chapters[row["chapter"]].append(row["pieces"])
    return chapters


def write_part(part: Part, inputs: Any, seed: int) -> Iterator[list[str]]:
    """The documents of one part, each from its own seed."""
    if part.kind == "pages":
        yield from _write_pages(part, inputs, seed)
        return
    options = parse_config(QuantitiesOptions, part.options, where="textbook options")
    graph_options = options.build_graph_options()
    for index in range(part.documents):
        random = Random(derive_seed(part.kind, seed, index))
        if part.kind == "arithmetic":
            yield [write_arithmetic(random, max_value=options.max_value)]
        else:
            yield [write_copying(random, graph_options, distinct_words=part.distinct_words)]


def _write_pages(part: Part, inputs: Any, seed: int) -> Iterator[list[str]]:
    if part.solutions is None:
        raise ConfigError("a textbook part of kind 'pages' needs `solutions: STAGE`, the problems it tells")
    limit = part.max_operations
    told = [
        (problem.question, f" {worked.prose.strip()}")
        for problem, worked in load_solutions(inputs[part.solutions])
        if limit is None or problem.meta.get("operations", 0) <= limit
    ]
    if not told:
        raise ConfigError(f"stage {part.solutions!r} has no problem of at most {limit} operations to tell")
    random = Random(derive_seed("pages", seed))
    order: list[int] = []
    for _ in range(part.documents):
        pieces: list[str] = []
        for place in range(random.randint(1, part.problems_per_page)):
            if not order:
                order = random.sample(range(len(told)), len(told))
            question, prose = told[order.pop()]
            pieces += [PLAIN_PROSE.example_separator] if place else []
            pieces += [PLAIN_PROSE.render_question(question), prose]
        yield pieces
