"""A whole evaluation through the driver, with a script for a model: committed, continued, graded, kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from ponderosa.artifacts import Journal
from ponderosa.engines.protocol import Sampling
from ponderosa.engines.scripted import ScriptedEngine
from ponderosa.errors import WorkError
from ponderosa.evaluation.protocol import evaluate_model, grade_attempts
from ponderosa.evaluation.suites import Suite
from ponderosa.evaluation.summary import RowContext, summarise
from ponderosa.evaluation.units import parse_attempt
from ponderosa.formats import PLAIN_PROSE
from ponderosa.records import Problem, to_record
from ponderosa.search.driver import build_context
from ponderosa.search.registry import get_strategy
from ponderosa.search.solution import Limits
from ponderosa.verify import Grader

NUM_PROBLEMS = 10


@dataclass
class Interrupting:
    """A progress that counts what is advanced and interrupts the work after some of it."""

    stops_after: float = float("inf")
    advanced: float = 0
    done: float = 0

    def start(self, label, total, unit, done):
        self.done = done
        return self

    def advance(self, count=1, **fields):
        self.advanced += count
        if self.advanced >= self.stops_after:
            raise KeyboardInterrupt

    def finish(self, task, *, completed=True) -> None:
        pass

    def say(self, line) -> None:
        pass


class NoSandbox:
    """Prose solutions run nothing."""

    def execute_many(self, requests: Sequence[tuple[Sequence[str], str]]):
        raise AssertionError("nothing should be run")


def make_suite(split: str = "test") -> Suite:
    problems = [Problem(f"What is {i} + 1?", str(i + 1), split=split) for i in range(NUM_PROBLEMS)]
    return Suite("toy", "report" if split == "test" else "selection", tuple(problems))


def make_engine() -> ScriptedEngine:
    """Right on even questions, wrong on odd ones, silent on the last."""
    replies = {i: str(i + 1 + i % 2) for i in range(NUM_PROBLEMS - 1)}
    script = {
        f"{i} + 1?\nSolution:": [f" So it is \\boxed{{{reply}}}.<|endoftext|>"]
        for i, reply in replies.items()
    }
    return ScriptedEngine({**script, "9 + 1?\nSolution:": ["<|endoftext|>"]}, num_slots=3)


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


def run(path, engine, grader, *, suite=None, strategy="greedy", seed=1, progress=None, **limits):
    context = build_context(
        engine, PLAIN_PROSE, seed=seed, sampling=Sampling(temperature=0.7), limits=Limits(**limits)
    )
    with Journal(path) as journal:
        return evaluate_model(
            engine,
            NoSandbox(),
            grader,
            suite or make_suite(),
            get_strategy(strategy, 2),
            context,
            journal,
            unit_attempts=4,
            progress=progress or Interrupting(),
        )


def test_a_whole_evaluation_gives_verdicts_and_rows(tmp_path, grader) -> None:
    suite = make_suite()
    graded = run(tmp_path / "journal", make_engine(), grader)
    assert [item.attempt.problem_id for item in graded] == [problem.id for problem in suite.problems]
    assert [item.verdict.reason for item in graded] == ["correct", "wrong_answer"] * 4 + [
        "correct",
        "no_answer",
    ]
    context = RowContext("sft", "sft", "scripted", suite.name, suite.content_hash, "greedy", seed=1)
    rows = {row["metric"]: row for row in summarise(context, suite.problems, graded)}
    assert rows["pass@1"]["value"] == 0.5
    assert rows["no_answer_frac"]["value"] == 0.1
    assert rows["pass@1"]["generated_tokens"] > 0


def test_a_killed_evaluation_continues_with_the_units_it_had_not_finished(tmp_path, grader) -> None:
    whole = run(tmp_path / "whole", make_engine(), grader)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", make_engine(), grader, progress=Interrupting(stops_after=6))
    engine, progress = make_engine(), Interrupting()
    assert run(tmp_path / "killed", engine, grader, progress=progress) == whole
    assert 0 < len(engine.requests) < NUM_PROBLEMS
    assert (progress.done, progress.advanced) == (NUM_PROBLEMS - len(engine.requests), len(engine.requests))
    idle = make_engine()
    assert run(tmp_path / "killed", idle, grader) == whole
    assert idle.requests == []


@pytest.mark.parametrize("change", [{"seed": 2}, {"strategy": "sample"}, {"max_tokens": 100}])
def test_attempts_of_another_setting_are_not_reused(change, tmp_path, grader) -> None:
    run(tmp_path / "journal", make_engine(), grader)
    engine = make_engine()
    run(tmp_path / "journal", engine, grader, **change)
    assert len(engine.requests) >= NUM_PROBLEMS


def test_the_engine_starts_every_unit_afresh(tmp_path, grader) -> None:
    engine = make_engine()
    run(tmp_path / "journal", engine, grader)
    assert engine.num_resets == 3


def test_reports_and_selections_never_share_sampling_seeds(tmp_path, grader) -> None:
    report, selection = make_engine(), make_engine()
    run(tmp_path / "a", report, grader, strategy="sample")
    run(tmp_path / "b", selection, grader, strategy="sample", suite=make_suite("selection"))
    assert {r.seed for r in report.requests}.isdisjoint(r.seed for r in selection.requests)
    assert len({r.seed for r in report.requests}) == 2 * NUM_PROBLEMS


def test_several_samples_of_a_problem_stay_together_in_sample_order(tmp_path, grader) -> None:
    graded = run(tmp_path / "journal", make_engine(), grader, strategy="majority")
    assert [item.attempt.sample for item in graded] == [0, 1] * NUM_PROBLEMS


def test_an_attempt_survives_the_journal_unchanged(tmp_path, grader) -> None:
    for item in run(tmp_path / "journal", make_engine(), grader):
        assert parse_attempt(to_record(item.attempt)) == item.attempt


def test_an_attempt_at_a_problem_that_was_not_asked_is_an_error(tmp_path, grader) -> None:
    graded = run(tmp_path / "journal", make_engine(), grader)
    with pytest.raises(WorkError, match="not asked"):
        grade_attempts(make_suite().problems[:3], [item.attempt for item in graded], grader)
