"""A realistic folder of a run that compared strategies at equal budget, made from nothing."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from ponderosa.evaluation.budget_rows import ACCURACY_AT_BUDGET
from ponderosa.evaluation.summary import RowContext, build_row, compare_values, correct_family
from ponderosa.identity import derive_seed
from ponderosa.metrics import compute_wilson_interval
from ponderosa.records import Cost
from synthetic_run import build_manifest, write_json

BUDGETS = (1000, 2000, 4000, 8000)
NUM_PROBLEMS = 400
SCORED = ("ppm-4", "orm-4", "q-regression-4")
CONTENDERS: Sequence[tuple[str, str | None]] = (
    ("majority", None),
    *((name, model) for name in ("best_of_n", "weighted_vote") for model in SCORED),
    ("beam", None),
    *((name, model) for name in ("beam", "dvts") for model in SCORED),
    ("mcts", None),
    *(("mcts", model) for model in SCORED),
)
GAINS = {"majority": 0.0, "best_of_n": 0.04, "weighted_vote": 0.06, "beam": 0.05, "dvts": 0.03, "mcts": -0.02}


def build_comparison(
    folder: Path, seeds: Sequence[int] = (0,), contenders: Sequence[tuple[str, str | None]] = CONTENDERS
) -> Path:
    """Write the run and return its folder."""
    rows: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    for seed in seeds:
        found: list[dict[str, Any]] = []
        for place, budget in enumerate(BUDGETS):
            drawn = [draw_answers(*one, place, seed) for one in contenders]
            rows += [
                build_answer_row(*one, budget, values, seed)
                for one, values in zip(contenders, drawn, strict=True)
            ]
            found += [
                build_test(*one, budget, drawn[0], values)
                for one, values in zip(contenders[1:], drawn[1:], strict=True)
            ]
        named = {"seed": seed} if len(seeds) > 1 else {}
        tests += [{**test, **named} for test in correct_family(found)]
    stage = {"name": "strategies", "use": "compare_strategies", "model": "policy-4"}
    write_json(folder / "recipe.json", {"name": "compared", "stages": [stage]})
    names = [f"strategies-{seed}a" for seed in seeds]
    write_json(folder / "summary.json", {"schema": 1, "rows": rows, "tests": tests, "stages": names})
    for name, seed in zip(names, seeds, strict=True):
        path = folder / "stages" / name
        write_json(path / "config.json", stage)
        manifest = build_manifest("strategies", "compare_strategies", f"{seed}a")
        write_json(path / "manifest.json", {**manifest, "seed": seed})
        (path / "DONE").touch()
    return folder


def draw_answers(strategy: str, reward_model: str | None, place: int, seed: int) -> list[float]:
    """Which problems are solved: more under larger budgets, and most with a PPM."""
    share = 0.44 + 0.05 * place + GAINS[strategy] * (1 + place / 2)
    share += {"ppm-4": 0.03, "orm-4": -0.01, "q-regression-4": -0.03}.get(reward_model or "", 0.0)
    source = Random(derive_seed("synthetic", strategy, reward_model or "", place, seed))
    return [float(source.random() < share) for _ in range(NUM_PROBLEMS)]


def build_answer_row(
    strategy: str, reward_model: str | None, budget: int, values: Sequence[float], seed: int
) -> dict[str, Any]:
    context = RowContext(
        "policy-4",
        "policy-4",
        "m",
        "strategies",
        "h",
        strategy,
        seed,
        eval_s=budget * 0.012,
        reward_model=reward_model,
        token_budget=budget,
    )
    written = int(budget * (0.95 if reward_model is None else 0.5))
    cost = Cost(100, 100, written, 0 if reward_model is None else written, 1, budget * 1.1e6)
    interval = compute_wilson_interval(int(sum(values)), NUM_PROBLEMS)
    return build_row(context, "all", ACCURACY_AT_BUDGET, values, interval, [cost] * NUM_PROBLEMS, 64)


def build_test(
    strategy: str, reward_model: str | None, budget: int, first: Sequence[float], values: Sequence[float]
) -> dict[str, Any]:
    return {
        **{"suite": "strategies", "slice": "all", "strategy": strategy, "metric": ACCURACY_AT_BUDGET},
        **{"a": "majority", "b": f"{strategy} with {reward_model}" if reward_model else strategy},
        **compare_values(first, values, seed=0),
        "reward_model": reward_model,
        "token_budget": budget,
    }
