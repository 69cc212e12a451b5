"""The stage table and model text on terminals."""

import io

import pytest
from rich.console import Console

from ponderosa.report.charts import Point, Series, render_curve, render_whiskers
from ponderosa.report.numbers import (
    format_amount,
    format_duration,
    format_interval,
    format_p,
    format_percent,
    format_points,
)
from ponderosa.report.run import load_run
from ponderosa.report.table import list_shown_rows
from ponderosa.report.terminal import (
    escape_markup,
    escape_terminal,
    render_rows,
    render_run_table,
    render_stage_table,
)
from synthetic_run import build_run, write_json
from synthetic_sweep import ARMS, build_sweep


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load_run(build_run(tmp_path_factory.mktemp("run")))


def test_the_text_table_lines_up_and_tests_each_stage_against_the_one_before(run) -> None:
    lines = render_stage_table(run.rows, run.tests).split("\n")
    assert lines[2].split()[:3] == ["base", "quantities", "(greedy)"]
    assert lines[4].startswith("sft")
    assert "[79.3, 83.7]" in lines[4]
    assert "+14.8 (p = 5.2e-54)" in lines[4]
    assert len({line.index("quantities") for line in lines[2:]}) == 1


def test_the_markdown_table_has_the_same_cells(run) -> None:
    header, rule, *body = render_stage_table(run.rows, run.tests, layout="markdown").split("\n")
    assert header.count("|") == rule.count("|") == 9
    assert "| 81.6% | [79.3, 83.7] | 1,200 | +14.8 (p = 5.2e-54) |" in body[2]


def test_a_pipe_or_newline_in_a_name_cannot_break_the_table(run) -> None:
    rows = [{**row, "suite": "a|b\nc\x1b[2J"} for row in run.rows]
    table = render_stage_table(rows, [], layout="markdown")
    assert len(table.split("\n")) == 5
    assert "a\\|b c⟨U+001B⟩[2J" in table


def test_training_seeds_have_a_line_each_until_there_is_one_over_all(run) -> None:
    sft = [row for row in run.rows if row["stage"] == "sft"]
    seeds = [{**row, "seed": seed, "value": 0.4 + seed / 10} for seed in (1, 2) for row in sft]
    joint = [{**row, "seed": None, "seeds": [1, 2], "value": 0.55} for row in sft]

    apart = render_stage_table(seeds, []).split("\n")
    together = render_stage_table(seeds + joint, []).split("\n")

    assert [line.split("quantities")[0].strip() for line in apart[2:]] == ["sft, seed 1", "sft, seed 2"]
    assert together[2].startswith("sft ")
    assert "55.0%" in together[2]
    assert "2 seeds, 50.0–60.0%" in together[2]
    assert "29 s" in together[2]
    assert len(together) == 3
    assert [row["value"] for row in list_shown_rows(seeds + joint)] == [0.55] * len(sft)


def test_a_sweep_prints_its_arms_against_the_first(tmp_path) -> None:
    folder = build_sweep(tmp_path)
    found = load_run(folder)
    lines = render_run_table(folder).split("\n")
    [longer, _] = found.sweep["tests"]
    assert lines[0] == "midtrain on quantities (greedy), pass@1"
    assert lines[1].split() == [
        "arm",
        "value",
        "95%",
        "interval",
        "seeds",
        "n",
        "truncated",
        "vs",
        "copying",
        "p",
        "Holm",
        "p",
    ]
    assert [line.split("  ")[0] for line in lines[3:]] == list(ARMS)
    assert format_interval(longer["low"], longer["high"]) in lines[4]
    assert all("0.0% [0.0, 1.3]" in line for line in lines[3:])
    assert lines[4].endswith(f"{longer['p_holm']:.2g}")
    assert "**midtrain on quantities" in render_run_table(folder, layout="markdown")


def test_a_stage_that_arms_share_has_one_line(tmp_path) -> None:
    found = load_run(build_sweep(tmp_path))
    lines = render_stage_table(found.rows, found.tests).split("\n")
    assert [line.split("   ")[0].split("  quant")[0] for line in lines[2:]] == [
        "base",
        *(f"midtrain, {arm}" for arm in ARMS),
    ]
    assert [("vs", "p = " in line) for line in lines[2:]] == [("vs", False), *[("vs", True)] * 3]


def test_an_evaluation_prints_every_slice_and_metric(run) -> None:
    lines = render_rows([row for row in run.rows if row["stage"] == "sft"]).split("\n")
    assert len(lines) == 2 + 5 + 3
    assert lines[2].split() == ["all", "pass@1", "81.6%", "[79.3,", "83.7]", "1,200", "1"]
    assert lines[7].split() == ["all", "mean_generated_tokens", "59.4", "[53.5,", "65.3]", "1,200", "1"]


def test_a_run_folder_prints_the_metric_its_recipe_named(tmp_path) -> None:
    folder = build_run(tmp_path)
    found = load_run(folder)
    assert render_run_table(folder) == render_stage_table(found.rows, found.tests)
    write_json(folder / "recipe.json", {"headline": {"metric": "pass@8"}})
    assert render_run_table(folder, layout="markdown") == "No pass@8 rows to show."


def test_no_rows_give_a_sentence() -> None:
    assert render_stage_table([], []) == "No pass@1 rows to show."


def test_a_test_against_a_model_that_is_not_the_one_before_is_still_found(run) -> None:
    tests = [{**run.tests[1], "a": "base"}]
    assert "p = 5.2e-54" in render_stage_table(run.rows, tests).split("\n")[4]


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "\x9b31m", "a\rb", "\u202eabc", "bell\x07", "\x1b]8;;http://x\x07"]
)
def test_nothing_that_moves_a_terminal_is_sent_to_it(text) -> None:
    shown = escape_terminal(text)
    assert all(character.isprintable() for character in shown)
    assert shown != text


def test_ordinary_text_of_any_script_is_untouched() -> None:
    text = "x² ≤ 3½, naïve, 東京, שלום, مرحبا\n\tindented €"
    assert escape_terminal(text) == text


@pytest.mark.parametrize(
    "text", ["[red]no[/red]", "[/]", "x[1]", "\\[b]", "[link=http://x]y[/link]", "ends in \\"]
)
def test_rich_prints_model_text_literally(text) -> None:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(
        f"[bold]{escape_markup(text)}[/bold] end", highlight=False
    )
    assert out.getvalue() == f"{text} end\n"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (format_percent(0.98765), "98.8%"),
        (format_percent(float("nan")), "—"),
        (format_percent(True), "—"),
        (format_points(-0.031), "−3.1"),
        (format_interval(-0.03, 0.0), "[−3.0, 0.0]"),
        (format_interval(-12.5, -2, is_frac=False), "[−12.5, −2.0]"),
        (format_interval(0.1, None), "—"),
        (format_p(0.0), "p < 1e-300"),
        (format_p(0.04321), "p = 0.043"),
        (format_p(1.0), "p = 1"),
        (format_amount(4_214_000), "4.21M"),
        (format_amount(3.1e15, "FLOP"), "3.1 PFLOP"),
        (format_amount(12), "12"),
        (format_duration(0.84), "0.8 s"),
        (format_duration(59.6), "1 min 00 s"),
        (format_duration(7_830), "2 h 10 min"),
        (format_duration("soon"), "—"),
    ],
)
def test_numbers_are_written_one_way(shown, expected) -> None:
    assert shown == expected


@pytest.mark.parametrize("losses", [[], [1.0], [float("nan")] * 5, [0.0, -1.0]])
def test_a_curve_without_two_finite_points_says_so(losses) -> None:
    series = Series("x", tuple(Point(i, loss) for i, loss in enumerate(losses)))
    assert "Fewer than two finite points" in render_curve(series, x_title="t", format_x=str, title="t")


@pytest.mark.parametrize("losses", [[1.0, 1.0], [5.0, float("inf"), 1.0], [1e-9, 1e9, 3.0]])
def test_a_curve_of_any_finite_shape_is_drawn_inside_its_frame(losses) -> None:
    series = Series("x", tuple(Point(i * 1000, loss) for i, loss in enumerate(losses)))
    drawn = render_curve(series, x_title="t", format_x=str, title="t")
    assert "nan" not in drawn
    assert "inf" not in drawn


@pytest.mark.parametrize(("reach", "label"), [(0.031, "4%"), (0.3, "40%"), (0.61, "100%"), (1.0, "100%")])
def test_a_fraction_axis_starts_at_zero_and_ends_above_every_whisker(reach, label) -> None:
    series = Series("x", (Point(0, reach / 2, 0.0, reach),))
    drawn = render_whiskers([series], ["1"], x_title="k", title="t")
    assert ">0%<" in drawn
    assert f">{label}<" in drawn
