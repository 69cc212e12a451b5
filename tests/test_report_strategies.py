"""Strategies at equal budget: the report's section, the plot beside the documentation, and the table in it."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.artifacts import read_json
from ponderosa.metrics import compute_wilson_interval
from ponderosa.report import write_report
from ponderosa.report.budget_curves import build_frame, render_budget_curves, spread
from ponderosa.report.charts import Point, Series
from ponderosa.report.run import Record, Run, load_run
from ponderosa.report.strategies import (
    Comparison,
    draw_plot,
    list_comparisons,
    list_panels,
    render_strategies,
)
from ponderosa.report.table import list_stage_lines
from ponderosa.report.terminal import render_comparison, render_run_table
from synthetic_comparison import BUDGETS, CONTENDERS, NUM_PROBLEMS, build_comparison
from test_report import _replace_some
from test_report_rounds import Tables

FEW = (("majority", None), ("best_of_n", "ppm-4"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_comparison(tmp_path_factory.mktemp("compared") / "run")


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    run = load_run(folder)
    (one,) = list_comparisons(run.rows, run.tests)
    return one


def pick(folder: Path, key: str, strategy: str, reward_model: str | None, budget: int) -> Record:
    summary: dict[str, list[Record]] = read_json(folder / "summary.json")
    found = {"strategy": strategy, "reward_model": reward_model, "token_budget": budget}
    (one,) = [one for one in summary[key] if all(one[name] == value for name, value in found.items())]
    return one


def test_an_answer_is_known_by_strategy_reward_model_and_budget(folder: Path, comparison: Comparison) -> None:
    assert (comparison.name, comparison.model, comparison.num_problems) == ("strategies", "policy-4", 400)
    assert comparison.budgets == list(BUDGETS)
    assert comparison.contenders == [(name, model or "") for name, model in CONTENDERS]
    answer = comparison.find(("best_of_n", "ppm-4"), 2000)
    assert answer is not None
    row = pick(folder, "rows", "best_of_n", "ppm-4", 2000)
    assert answer.accuracy[:3] == (row["value"], row["low"], row["high"])
    assert (answer.tokens, answer.flops, answer.seconds) == (2100, 2000 * 1.1e6, 2000 * 0.012 / NUM_PROBLEMS)
    assert answer.tests == [pick(folder, "tests", "best_of_n", "ppm-4", 2000)]


def test_each_reward_model_has_a_chart_in_which_the_first_strategy_stands_too(comparison: Comparison) -> None:
    panels = list_panels(comparison)
    assert list(panels) == ["no reward model", "ppm-4", "orm-4", "q-regression-4"]
    assert [one.name for one in panels["no reward model"]] == ["majority", "beam", "mcts"]
    scored = ["majority", "best of n", "weighted vote", "beam", "dvts", "mcts"]
    assert [one.name for one in panels["orm-4"]] == scored
    colours = {(one.name, one.colour) for series in panels.values() for one in series}
    assert len(colours) == len(scored), (
        "a strategy has one colour in all charts, and none has that of another"
    )


def test_the_section_has_a_table_for_each_budget_with_tests_and_costs(folder: Path) -> None:
    html = write_report(folder).read_text("utf-8")
    section = html.partition('id="strategies-at-equal-budget"')[2].partition("</section>")[0]
    rows = Tables(section).rows
    assert len(rows) == len(BUDGETS) * (1 + len(CONTENDERS))
    assert section.count("<svg") == 8
    header, majority, first, *_ = rows
    assert header[:4] == ["strategy", "accuracy", "against majority", "Holm p"]
    assert majority[2:] == ["—", "—", "1,050", "1.1G", "0.03"]
    test = pick(folder, "tests", "best_of_n", "ppm-4", 1000)
    low, high = compute_wilson_interval(round(test["value_b"] * NUM_PROBLEMS), NUM_PROBLEMS)
    assert first[:2] == ["best of nppm-4", f"{test['value_b']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"]
    assert first[2] == f"+{100 * (test['value_b'] - test['value_a']):.1f} points p = {test['p_value']:.2g}"
    assert first[3] == "1"
    assert section.count("<details") == len(BUDGETS) + 1
    assert section.count("<details open") == 1


def test_a_comparison_is_no_evaluation_of_its_model(folder: Path) -> None:
    run = load_run(folder)
    assert list_stage_lines(run.rows, run.tests) == []
    assert "Accuracy by slice" not in write_report(folder).read_text("utf-8")


def test_over_several_seeds_figures_are_means_with_ranges_and_each_seed_has_its_test(tmp_path: Path) -> None:
    folder = build_comparison(tmp_path, seeds=(0, 1), contenders=FEW)
    html = str(render_strategies(load_run(folder)))
    _, _, scored, *_ = Tables(html).rows
    values = [
        row["value"] for row in read_json(folder / "summary.json")["rows"] if row["token_budget"] == 1000
    ]
    mean, low, high = sum(values[1::2]) / 2, min(values[1::2]), max(values[1::2])
    assert scored[1] == f"{mean:.1%} {100 * low:.1f}–{100 * high:.1f}%"
    assert "seed 0" in scored[2]
    assert "seed 1" in scored[2]


def test_the_same_answers_are_drawn_over_flops_too(folder: Path) -> None:
    html = str(render_strategies(load_run(folder)))
    by_tokens, fold, by_flops = html.partition("By FLOPs")
    assert fold
    assert by_flops.count("<svg") == by_tokens.count("<svg") > 0
    assert "FLOP computed for a problem" in by_flops.partition("<table")[0]


def test_each_arm_of_a_sweep_has_its_own_comparison(folder: Path) -> None:
    summary = read_json(folder / "summary.json")
    rows, tests = (
        [{**one, "arm": arm} for arm in ("one", "two") for one in summary[key]] for key in ("rows", "tests")
    )
    found = list_comparisons(rows, tests)
    assert [one.arm for one in found] == ["one", "two"]
    assert all(len(answer.tests) <= 1 for one in found for answer in one.answers)


def test_a_run_that_compared_nothing_has_no_such_section() -> None:
    assert render_strategies(Run("empty", {}, [], [], [])) is None


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_values_of_any_wrong_kind_never_stop_the_section(share: float, tmp_path: Path) -> None:
    random = Random(3)
    for number in range(6):
        folder = build_comparison(tmp_path / str(number), contenders=FEW)
        path = folder / "summary.json"
        path.write_text(json.dumps(_replace_some(read_json(path), share, random)), "utf-8")
        run = load_run(folder)
        render_strategies(run)
        for one in list_comparisons(run.rows, run.tests):
            draw_plot(one)
            render_comparison(one, layout="markdown")


# The chart


@given(st.lists(st.floats(-50, 300), max_size=12))
def test_names_of_lines_keep_apart_and_in_order_and_within_the_chart(wanted: list[float]) -> None:
    heights = spread(wanted, 14, 12, 185)
    ordered = sorted(zip(wanted, heights, strict=True))
    assert all(b - a >= 14 - 1e-9 for (_, a), (_, b) in pairwise(ordered))
    assert all(height <= 185 for height in heights)


def test_points_that_cannot_be_drawn_are_left_out() -> None:
    bad: list[Any] = [Point(0, 0.5), Point(float("nan"), 0.5), Point(10, float("inf"))]
    series = [Series("one", (*bad, Point(100, 0.5, 0.4, 0.6)))]
    html = str(render_budget_curves(series, build_frame(series, [100]), title="x"))
    assert html.count("<circle") == 1
    assert "nan" not in html
    assert render_budget_curves([], build_frame([], []), title="x")


# Beside the documentation


def test_the_plot_is_a_file_of_its_own_with_every_line_named(comparison: Comparison) -> None:
    text = str(draw_plot(comparison))
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    names = [found.text for found in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"no reward model", "ppm-4", "weighted vote", "8k"} <= set(names)
    assert len(text) < 40_000


def test_a_table_has_a_line_for_each_strategy_and_reward_model(folder: Path, comparison: Comparison) -> None:
    title, _, header, _, majority, scored, *more = render_comparison(comparison, layout="markdown").split(
        "\n"
    )
    assert title == "**strategies: policy-4, 400 problems**"
    assert header.startswith("| strategy | reward model | 1,000 tokens |")
    assert len(more) == len(CONTENDERS) - 2
    assert majority.split(" | ")[2].endswith("<br>1,050 tokens, 1.1 GFLOP, 0.03 s")
    test = pick(folder, "tests", "best_of_n", "ppm-4", 8000)
    last = scored.split(" | ")[-1]
    assert f"p = {test['p_value']:.2g}, Holm {test['p_holm']:.2g}<br>" in last
    assert "best of n" in render_run_table(folder)
