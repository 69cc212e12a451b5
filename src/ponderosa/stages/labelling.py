"""What a stage needs where attempts are labelled to train on: a sandbox, a judge, and a journal of finished units."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ponderosa.artifacts import Journal
from ponderosa.evaluation.renumbering import RENUMBERING, find_refuted
from ponderosa.records import Attempt, Problem, Verdict
from ponderosa.sandbox import Sandbox
from ponderosa.search.requests import Judge
from ponderosa.stages.stage import Context
from ponderosa.verify import Grader, verdict_for


class Labelling(NamedTuple):
    """judge: compares attempts with what is known of their problems' answers."""

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

        def judge(asked: Sequence[tuple[Problem, Attempt]]) -> list[Verdict]:
            return [verdict_for(problem, attempt, grader) for problem, attempt in asked]

        yield Labelling(sandbox, judge, journal)


def catch_false_positives(labelling: Labelling, num_renumberings: int) -> Judge:
    """The judge, and behind it re-numbering: a right answer whose program is wrong on other numbers is `refuted`."""

    def judge(asked: Sequence[tuple[Problem, Attempt]]) -> list[Verdict]:
        verdicts = list(labelling.judge(asked))
        right = [place for place, verdict in enumerate(verdicts) if verdict.correct]
        solutions = [(problem, attempt.steps) for problem, attempt in (asked[place] for place in right)]
        refuted = find_refuted(solutions, labelling.sandbox.run_many, num_renumberings=num_renumberings)
        for place, is_refuted in zip(right, refuted, strict=True):
            if is_refuted is not None:
                verdicts[place] = _revise(verdicts[place], is_refuted)
        return verdicts

    return judge


def _revise(verdict: Verdict, is_refuted: bool) -> Verdict:
    """The verdict on a right answer after its program was asked for other numbers."""
    verifier = f"{verdict.verifier}+{RENUMBERING}"
    return Verdict(not is_refuted, "refuted" if is_refuted else "correct", verifier)
