"""Strategies compared at equal token budgets on a real tiny model: rows, tests, and that a killed stage continues."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ponderosa.artifacts import read_json, read_table
from ponderosa.config import parse_config
from ponderosa.errors import ConfigError
from ponderosa.metrics import adjust_holm
from ponderosa.stages import compare_strategies
from ponderosa.stages.compare_strategies import ComparedStrategy
from test_cli import model
from test_evaluation_strategies import reward_model
from test_stages import build_context
from tiny_runs import FAMILY, GROWN, SUITES, run_tiny

__all__ = ["model", "reward_model"]
STRATEGIES: list[dict[str, Any]] = [
    {"strategy": "majority", "samples": 4},
    {"strategy": "best_of_n", "samples": 4, "reward_models": ["ppm"]},
    {
        "strategy": "beam",
        "search": {"width": 1},
        "tokens_per": {"samples": 40},
        "reward_models": [None, "ppm"],
    },
]
BUDGETS = [60, 120]
CONTENDERS = [("majority", None), ("best_of_n", "ppm"), ("beam", None), ("beam", "ppm")]


def parse(**values: Any) -> compare_strategies.Config:
    defaults = {
        "model": "base",
        "suite": SUITES[0],
        "strategies": STRATEGIES,
        "token_budgets": BUDGETS,
        "max_tokens": 12,
        "num_slots": 4,
    }
    return parse_config(compare_strategies.Config, {**defaults, **values}, where="stage")


@pytest.fixture(scope="module")
def inputs(model: Path, reward_model: Path) -> dict[str, Path]:
    return {"base": model.parent, "ppm": reward_model.parent}


@pytest.fixture(scope="module")
def compared(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison."""
    folder = tmp_path_factory.mktemp("compared") / "stage"
    compare_strategies.run(parse(), build_context(folder, inputs))
    return folder


def read_rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_json(folder / "rows.json")["rows"]
    return rows


def test_every_strategy_is_measured_with_each_of_its_reward_models_under_every_budget(compared: Path) -> None:
    rows = [row for row in read_rows(compared) if row["metric"] == "accuracy_at_budget"]
    assert [(row["token_budget"], row["strategy"], row["reward_model"]) for row in rows] == [
        (budget, *contender) for budget in BUDGETS for contender in CONTENDERS
    ]
    for row in rows:
        assert (row["stage"], row["suite"], row["slice"], row["n"]) == ("base", "stage", "all", 4)
        assert row["eval_s"] > 0
        assert row["eval_flops"] > 0
    assert [row["samples"] for row in rows] == [4, 4, 1, 1, 4, 4, 3, 3]
    assert len(read_table(compared / "attempts" / "beam-with-ppm-120.parquet")) == 4


def test_each_is_tested_against_the_first_under_its_budget_and_all_are_one_family(compared: Path) -> None:
    tests = read_json(compared / "tests.json")
    assert [(test["token_budget"], test["a"], test["b"], test["strategy"]) for test in tests] == [
        (budget, "majority", name, name.partition(" ")[0])
        for budget in BUDGETS
        for name in ("best_of_n with ppm", "beam", "beam with ppm")
    ]
    values = {
        (row["token_budget"], row["strategy"], row["reward_model"]): row["value"]
        for row in read_rows(compared)
        if row["metric"] == "accuracy_at_budget"
    }
    for test in tests:
        assert (test["metric"], test["test"], test["n"]) == ("accuracy_at_budget", "mcnemar", 4)
        assert test["value_a"] == values[test["token_budget"], "majority", None]
        assert test["value_b"] == values[test["token_budget"], test["strategy"], test["reward_model"]]
    assert [test["p_holm"] for test in tests] == adjust_holm([test["p_value"] for test in tests])


def test_an_answer_does_not_depend_on_what_else_is_compared(
    compared: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    config = parse(strategies=[STRATEGIES[2], STRATEGIES[0]], token_budgets=[120])
    compare_strategies.run(config, build_context(tmp_path / "stage", inputs))
    for name in ("majority-120", "beam-with-ppm-120"):
        tables = [
            read_table(folder / "attempts" / f"{name}.parquet") for folder in (compared, tmp_path / "stage")
        ]
        assert tables[0] == tables[1]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_a_comparison_killed_anywhere_continues_to_the_same_tables(
    share: float, compared: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    shutil.copytree(compared, folder)
    journal = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(journal[: int(share * len(journal))])

    compare_strategies.run(parse(), build_context(folder, inputs))

    timeless = [[{**row, "eval_s": 0} for row in read_rows(one)] for one in (compared, folder)]
    assert timeless[0] == timeless[1]
    assert (folder / "tests.json").read_bytes() == (compared / "tests.json").read_bytes()
    assert (folder / "journal.jsonl").read_bytes() == journal


def test_parameters_grow_with_the_budget_by_the_tokens_that_one_of_each_costs() -> None:
    entry = ComparedStrategy(strategy="beam", tokens_per={"samples": 300, "width": 1200})
    found = [entry.get_strategy(budget).model_dump() for budget in (100, 1000, 8000)]
    assert [(one["samples"], one["width"], one["token_budget"]) for one in found] == [
        (1, 1, 100),
        (3, 1, 1000),
        (26, 6, 8000),
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"strategies": [{"strategy": "greedy"}, STRATEGIES[0]]}, "'greedy' takes no token_budget"),
        ({"strategies": [STRATEGIES[0], {"strategy": "best_of_n"}]}, "needs a reward model"),
        (
            {"strategies": [STRATEGIES[0], {"strategy": "majority", "reward_models": ["ppm"]}]},
            "does not use a reward model",
        ),
        ({"strategies": [STRATEGIES[0], STRATEGIES[0]]}, "named twice: majority"),
        ({"token_budgets": [50, 50]}, "named twice: 50"),
        ({"token_budgets": [0]}, "allowed: 1 and more"),
        (
            {"strategies": [STRATEGIES[0], {"strategy": "beam", "search": {"token_budget": 9}}]},
            "leave token_budget out",
        ),
        (
            {
                "strategies": [
                    STRATEGIES[0],
                    {"strategy": "beam", "search": {"width": 1}, "tokens_per": {"width": 9}},
                ]
            },
            "width is in `search` and in `tokens_per`",
        ),
        (
            {"strategies": [STRATEGIES[0], {"strategy": "beam", "tokens_per": {"samples": 0}}]},
            "at least 1 token",
        ),
        (
            {"strategies": [STRATEGIES[0], {"strategy": "beam", "tokens_per": {"samples": 60}}]},
            "a beam of width 4",
        ),
        ({"strategies": [STRATEGIES[0], {"strategy": "beams"}]}, "did you mean 'beam'"),
        ({"suite": {**SUITES[0], "split": "train"}}, "split"),
    ],
)
def test_what_cannot_be_compared_is_refused_when_it_is_planned(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(**values)


def test_a_label_tells_apart_two_settings_of_one_strategy() -> None:
    wide = {"strategy": "majority", "samples": 8, "label": "more votes"}
    config = parse(strategies=[STRATEGIES[0], wide])
    assert [one.name for one in config.list_contenders()] == ["majority", "more votes"]


def test_another_training_seed_answers_the_same_problems() -> None:
    assert parse().keep_problems(7).suite.seed == 7
    assert parse(suite={**SUITES[0], "seed": 3}).keep_problems(7).suite.seed == 3


def test_a_runs_summary_has_the_rows_and_tests_of_a_comparison_over_seeds(tmp_path: Path) -> None:
    stage = {
        "name": "strategies",
        "use": "compare_strategies",
        "model": "base",
        "suite": {"suite": "quantities", "limit": 3, "options": FAMILY},
        "strategies": [STRATEGIES[0], {"strategy": "mcts", "samples": 1, "search": {"candidates": 2}}],
        "token_budgets": [60],
        "max_tokens": 12,
        "num_slots": 4,
    }
    summary = read_json(run_tiny(tmp_path / "run", *GROWN, stage, seeds=[0, 1]))
    rows = [row for row in summary["rows"] if row["metric"] == "accuracy_at_budget"]
    assert [(row["strategy"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (0, 1) for name in ("majority", "mcts")
    ]
    assert len({row["suite_hash"] for row in rows}) == 1
    assert [(test["b"], test["seed"]) for test in summary["tests"]] == [("mcts", 0), ("mcts", 1)]


def test_the_comparison_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[1] / "docs" / "search.md").read_text("utf-8")
    _, text = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    (stage,) = yaml.safe_load(text)
    assert stage.pop("use") == "compare_strategies"
    del stage["name"]
    config = parse_config(compare_strategies.Config, stage, where="search.md")
    assert {one.entry.strategy for one in config.list_contenders()} == {"majority", "best_of_n", "beam"}
