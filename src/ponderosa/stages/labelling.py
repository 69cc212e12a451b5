"""What a stage needs where attempts are labelled to train on: a sandbox, a judge, and a journal of finished units."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ponderosa.artifacts import Journal
from ponderosa.evaluation.renumbering import RENUMBERING, is_refuted
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


def catch_false_positives(labelling: Labelling, num_renumberings: int) -> Judge:
    """The judge, and behind it re-numbering: a right answer from a refuted program is a wrong one.

    Its verdict then is `wrong_answer`, which is what the program gives on other numbers, and says who found it.
    """

    def judge(problem: Problem, attempt: Attempt) -> Verdict:
        verdict = labelling.judge(problem, attempt)
        if not verdict.correct:
            return verdict
        refuted = is_refuted(
            problem, attempt.steps, labelling.sandbox.run_many, num_renumberings=num_renumberings
        )
        if refuted is None:
            return verdict
        verifier = f"{verdict.verifier}+{RENUMBERING}"
        return Verdict(not refuted, "wrong_answer" if refuted else "correct", verifier)

    return judge
