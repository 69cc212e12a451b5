"""What a stage needs where attempts are labelled to train on: a sandbox, a judge, and a journal of finished units."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ponderosa.artifacts import Journal
from ponderosa.records import Attempt, Problem, Verdict
from ponderosa.sandbox import Sandbox
from ponderosa.search.requests import Judge
from ponderosa.stages.stage import Context
from ponderosa.verify import Grader, verdict_for


class Labelling(NamedTuple):
    """judge: compares an attempt with what is known of its problem's answer."""

    sandbox: Sandbox
    judge: Judge
    journal: Journal


@contextmanager
def open_labelling(context: Context) -> Iterator[Labelling]:
    """The workers and the journal of a stage, for the length of a block."""
    with (
        Sandbox(workers=context.workers) as sandbox,
        Grader(num_workers=context.workers) as grader,
        Journal(context.folder / "journal.jsonl") as journal,
    ):

        def judge(problem: Problem, attempt: Attempt) -> Verdict:
            return verdict_for(problem, attempt, grader)

        yield Labelling(sandbox, judge, journal)
