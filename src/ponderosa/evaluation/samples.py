"""Which attempts are shown to a reader: chosen by hash, so that nobody picks them."""

from collections.abc import Sequence
from typing import Any

from ponderosa.evaluation.summary import ALL, Graded
from ponderosa.identity import derive_seed
from ponderosa.records import GradedAttempt, Problem, Step, to_record


def select_samples(
    problems: Sequence[Problem],
    graded: Graded,
    *,
    slice_keys: Sequence[str] = (),
    num_right: int = 4,
    num_wrong: int = 4,
) -> list[dict[str, Any]]:
    """Records of up to `num_right` right and `num_wrong` wrong attempts, one problem at most once in each.

    The choice depends on problem ids alone, so the same problems are shown for every model where they qualify.
    """
    by_id = {problem.id: problem for problem in problems}
    ordered = sorted(
        (item for item in graded if item.attempt.problem_id in by_id),
        key=lambda item: (derive_seed("shown", item.attempt.problem_id), item.attempt.sample),
    )
    chosen: list[GradedAttempt] = []
    for is_right, count in ((True, num_right), (False, num_wrong)):
        first: dict[str, GradedAttempt] = {}
        for item in ordered:
            if item.verdict.correct == is_right:
                first.setdefault(item.attempt.problem_id, item)
        chosen += list(first.values())[:count]
    return [build_sample(by_id[item.attempt.problem_id], item, slice_keys) for item in chosen]


def build_sample(problem: Problem, item: GradedAttempt, slice_keys: Sequence[str] = ()) -> dict[str, Any]:
    """One attempt as the report shows it."""
    attempt = item.attempt
    names = [f"{key}={problem.meta[key]}" for key in slice_keys if key in problem.meta]
    return {
        "problem_id": problem.id,
        "question": problem.question,
        "gold": problem.answer,
        "slice": ", ".join(names) or ALL,
        "finish": attempt.finish,
        "steps": [to_record(step) for step in attempt.steps or (Step(attempt.text),)],
        "answer": attempt.answer,
        "verdict": {"correct": item.verdict.correct, "reason": item.verdict.reason},
        "tokens": attempt.cost.generated_tokens,
    }
