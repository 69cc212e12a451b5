"""Problems, attempts and verdicts as Parquet tables.

Attempts and verdicts lie apart, row by row for one another: a better grader grades the stored attempts again.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ponderosa.artifacts import read_table, write_table
from ponderosa.evaluation.units import parse_attempt
from ponderosa.ledger import Ledger
from ponderosa.records import Cost, GradedAttempt, Problem, Verdict, to_record


def save_graded(attempts: Path, verdicts: Path, graded: Sequence[GradedAttempt]) -> None:
    """Write both tables, in the order given."""
    write_table(
        attempts,
        [{**to_record(one.attempt), "steps": _to_json(one.attempt.steps)} for one in graded],
    )
    write_table(
        verdicts,
        [
            {"problem_id": one.attempt.problem_id, "sample": one.attempt.sample, **asdict(one.verdict)}
            for one in graded
        ],
    )


def load_graded(attempts: Path, verdicts: Path) -> list[GradedAttempt]:
    """What `save_graded` wrote."""
    return [
        GradedAttempt(
            parse_attempt({**record, "steps": json.loads(record["steps"])}),
            Verdict(verdict["correct"], verdict["reason"], verdict["verifier"]),
        )
        for record, verdict in zip(read_table(attempts), read_table(verdicts), strict=True)
    ]


def save_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write problems with their gold answers; `meta` as JSON."""
    write_table(path, [{**to_record(one), "meta": json.dumps(dict(one.meta))} for one in problems])


def load_problems(path: Path) -> list[Problem]:
    """What `save_problems` wrote."""
    return [Problem(**{**record, "meta": json.loads(record["meta"])}) for record in read_table(path)]


def count_costs(ledger: Ledger, graded: Iterable[GradedAttempt]) -> None:
    """Add what the attempts cost."""
    for one in graded:
        add_cost(ledger, one.attempt.cost)


def add_cost(ledger: Ledger, cost: Cost) -> None:
    """Add what sampling, running and scoring cost."""
    ledger.prompt_tokens += cost.prompt_tokens
    ledger.prefill_tokens += cost.prefill_tokens
    ledger.generated_tokens += cost.generated_tokens
    ledger.scored_tokens += cost.scored_tokens
    ledger.executions += cost.executions
    ledger.eval_flops += cost.flops


def _to_json(steps: Sequence[Any]) -> str:
    return json.dumps([asdict(step) for step in steps])
