"""Rounds of self-evolution: the result rows of a search, and the report's section on them."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ponderosa.artifacts import read_json
from ponderosa.evaluation.joint import compare_searches, summarise_evaluations
from ponderosa.evaluation.renumbering import RENUMBERING
from ponderosa.evaluation.summary import RowContext, build_row
from ponderosa.evaluation.tree_summary import (
    SearchedTree,
    build_tree_rows,
    compare_coverage,
    strip_nodes,
    summarise_trees,
)
from ponderosa.metrics import compute_wilson_interval
from ponderosa.planning import PlannedStage, plan_runs
from ponderosa.records import Cost, GradedTree, Problem, Verdict
from ponderosa.report import write_report
from ponderosa.report.coverage import list_coverage
from ponderosa.report.rounds import list_lines, render_rounds
from ponderosa.report.run import Record, Run, load_run
from ponderosa.report.terminal import render_coverage
from ponderosa.stages.attempt_tables import save_problems
from ponderosa.stages.tree_tables import save_trees
from ponderosa.summary import load_searches, write_summary
from synthetic_run import write_json
from test_report import _replace_some
from tiny_runs import GROWN, build_recipe
from tree_records import RIGHT, WRONG, build_node, build_tree

PROBLEMS = [Problem("q", id=f"{k}-{i}", meta={"operations": k}) for k in (3, 4, 10) for i in range(8)]
ASKED = Verdict(True, "correct", f"answer@1+{RENUMBERING}")
REFUTED = Verdict(False, "refuted", f"answer@1+{RENUMBERING}")


def grow(num_solved: int, *, has_extra: bool = False) -> list[SearchedTree]:
    """A tree of each problem; in each slice the first `num_solved` are solved, the last of these by extra simulations."""
    trees = []
    for problem in PROBLEMS:
        place = int(problem.id.partition("-")[2])
        verdicts = (ASKED, REFUTED) if place == 0 else (RIGHT,) if place < num_solved else (WRONG,)
        simulations = 8 if has_extra and place == num_solved - 1 else 4
        end = "budget" if verdicts == (WRONG,) else "solved"
        trees.append(SearchedTree(problem.id, end, 3, simulations, Cost(2, 10, 20, 5, 1, 100.0), verdicts))
    return trees


def build_rows(
    trees: Sequence[SearchedTree], name: str = "trees-1", policy: str = "policy-0", seed: int = 0
) -> list[Record]:
    context = RowContext(
        policy, policy, f"{policy}-{seed}", name, "same", "tree_search", seed, train_flops=7.0
    )
    return build_tree_rows(context, PROBLEMS, trees, simulations=4, occupancy=0.93, seed=seed)


def pick(rows: Sequence[Record], metric: str, name: str = "all") -> Record:
    (row,) = [row for row in rows if (row["metric"], row["slice"]) == (metric, name)]
    return row


# Rows of a search


def test_the_rows_of_a_search_are_its_facts() -> None:
    trees = grow(3, has_extra=True)
    rows = build_rows(trees)
    facts = summarise_trees(trees, rows, simulations=4)
    for metric in ("coverage", "coverage_without_extra"):
        for name, fact in facts[metric].items():
            row = pick(rows, metric, name)
            assert {key: row[key] for key in fact} == fact
    false = pick(rows, "false_positive_frac")
    assert {**facts["false_positives"], "solutions": 6} == {
        **{key: false[key] for key in ("value", "low", "high", "n")},
        "solutions": 6,
    }
    assert (false["value"], false["n"]) == (0.5, 3)


def test_a_row_on_a_slice_has_the_interval_and_the_cost_of_its_problems() -> None:
    rows = build_rows(grow(3, has_extra=True))
    row = pick(rows, "coverage", "operations=10")
    assert (row["value"], row["n"]) == (3 / 8, 8)
    assert (row["low"], row["high"]) == compute_wilson_interval(3, 8)
    assert (row["generated_tokens"], row["eval_flops"], row["samples"]) == (8 * 20, 800.0, 1)
    assert pick(rows, "coverage_without_extra", "operations=10")["value"] == 2 / 8
    assert pick(rows, "mean_computed_tokens")["value"] == 35.0
    assert pick(rows, "mean_simulations", "operations=10")["value"] == (7 * 4 + 8) / 8
    assert pick(rows, "ended_solved_frac")["value"] == pytest.approx(3 / 8)
    assert pick(rows, "ended_hopeless_frac")["value"] == 0.0


def test_occupancy_is_one_row_without_an_interval() -> None:
    row = pick(build_rows(grow(3)), "occupancy")
    assert (row["value"], row["low"], row["high"], row["slice"]) == (0.93, None, None, "all")
    assert (row["stage"], row["suite"], row["strategy"]) == ("policy-0", "trees-1", "tree_search")


def test_where_no_program_could_be_asked_again_there_is_no_row_of_false_positives() -> None:
    trees = [tree._replace(verdicts=(RIGHT,)) for tree in grow(3)]
    assert not [row for row in build_rows(trees) if row["metric"] == "false_positive_frac"]


# Tests between searches


def list_solved(num_solved: int) -> set[str]:
    return {tree.problem_id for tree in grow(num_solved) if tree.is_solved}


def test_two_searches_are_tested_on_each_slice_by_which_problems_only_one_of_them_solved() -> None:
    solved = list_solved(2) | {"3-7"}
    tests = compare_coverage(
        PROBLEMS, ("trees-1", solved), ("trees-2", list_solved(7)), strategy="tree_search"
    )
    assert [test["slice"] for test in tests] == ["all", "operations=3", "operations=4", "operations=10"]
    whole, easy, _, hard = tests
    assert (whole["suite"], whole["metric"], whole["a"], whole["b"]) == (
        "trees-2",
        "coverage",
        "trees-1",
        "trees-2",
    )
    assert (easy["value_a"], easy["value_b"], easy["n"]) == (3 / 8, 7 / 8, 8)
    assert (easy["only_a"], easy["only_b"], easy["test"]) == (1, 5, "mcnemar")
    assert easy["p_value"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert hard["p_value"] == pytest.approx(2 / 2**5)
    assert hard["p_holm"] == pytest.approx(3 * hard["p_value"])


def save_search(folder: Path, problems: Sequence[Problem], num_solved: int, seed: int = 0) -> None:
    """What the summary reads of a finished search that solved its first problems."""
    trees = [
        GradedTree(build_tree(build_node(), problem_id=one.id), {0: RIGHT if place < num_solved else WRONG})
        for place, one in enumerate(problems)
    ]
    save_trees(folder, trees)
    save_problems(folder / "problems.parquet", problems)
    suite_hash = "".join(one.id for one in problems)
    name = folder.name.rpartition("-")[0]
    context = RowContext("policy", "policy", "m", name, suite_hash, "tree_search", seed)
    stripped = [strip_nodes(one) for one in trees]
    rows = build_tree_rows(context, problems, stripped, simulations=16, occupancy=1.0, seed=0)
    write_json(folder / "rows.json", {"schema": 1, "rows": rows})
    write_json(folder / "tests.json", [])
    (folder / "DONE").touch()


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_a_summary_tests_each_search_against_the_one_before_it_of_the_same_problems(
    tmp_path: Path, seeds: list[int]
) -> None:
    source = {"task": "quantities", "count": 9}
    searches = [
        {"name": name, "use": "search", "model": "base", "sources": [source]}
        for name in ("trees-1", "others", "trees-2", "trees-3", "trees-4")
    ]
    recipe = build_recipe(*GROWN, *searches, seeds=seeds)
    stages = plan_runs(recipe, tmp_path)
    for place, stage in enumerate(stage for stage in stages if stage.kind == "search"):
        if stage.name != "trees-4":
            problems = PROBLEMS[:5] if stage.name == "others" else PROBLEMS
            save_search(tmp_path / "stages" / stage.folder_name, problems, place)
    tests = read_json(write_summary(tmp_path, recipe, stages))["tests"]
    whole = [test for test in tests if test["slice"] == "all"]
    chain = [("trees-1", "trees-2"), ("trees-2", "trees-3")]
    assert [(test["a"], test["b"]) for test in whole] == chain * len(seeds)
    assert [test.get("seed") for test in whole] == ([3, 3, 4, 4] if len(seeds) > 1 else [None] * 2)
    assert (whole[0]["only_a"], whole[0]["only_b"], whole[0]["n"]) == (0, 2, 24)
    assert len(tests) == 4 * len(whole)


def test_searches_of_the_same_problems_at_all_seeds_are_summed_up_and_tested_over_seeds(
    tmp_path: Path,
) -> None:
    source = {"task": "quantities", "count": 9}
    names = ("coverage-0", "trees-1", "coverage-1")
    searches = [{"name": name, "use": "search", "model": "base", "sources": [source]} for name in names]
    recipe = build_recipe(*GROWN, *searches, seeds=[3, 4])
    stages = [stage for stage in plan_runs(recipe, tmp_path) if stage.kind == "search"]
    for stage in stages:
        problems = PROBLEMS[stage.seed :] if stage.name == "trees-1" else PROBLEMS
        save_search(
            tmp_path / "stages" / stage.folder_name,
            problems,
            12 if stage.name == "coverage-1" else stage.seed,
            stage.seed,
        )
    found = load_searches(tmp_path, recipe, stages)
    assert [one.stage for one in found] == ["coverage-0", "coverage-1"]
    rows = summarise_evaluations(found)
    first, last = (pick([row for row in rows if row["suite"] == name], "coverage") for name in names[::2])
    assert (first["value"], first["seeds"], first["n"]) == (3.5 / 24, [3, 4], 24)
    assert first["low"] < 3.5 / 24 < first["high"]
    tests = compare_searches(found)
    assert (tests[0]["a"], tests[0]["b"], tests[0]["slice"]) == ("coverage-0", "coverage-1", "all")
    assert (tests[0]["value_b"], [one["only_b"] for one in tests[0]["by_seed"]]) == (0.5, [9, 8])

    (line, later) = list_coverage([*_list_single(tmp_path, stages), *rows], tests)
    assert (line.search, line.row, line.seed_values, line.test) == (
        "coverage-0",
        first,
        [3 / 24, 4 / 24],
        None,
    )
    assert (later.row, later.test, list(later.slices)) == (last, tests[0], list(SLICES))
    shown = render_coverage([line, later], layout="markdown")
    assert "| coverage-1 | policy | 50.0% |" in shown
    assert "against coverage-0" in shown
    assert "| operations 3 | operations 4 | operations 10 |" in shown


def test_a_search_whose_seeds_had_other_problems_has_a_line_for_each_seed() -> None:
    columns = {"suite": "trees-1", "metric": "coverage", "stage": "policy", "n": 10}
    rows = [
        {**columns, "seed": seed, "slice": name, "value": seed / 10}
        for seed in (3, 4)
        for name in ("all", "operations=10", "operations=9")
    ]
    tests = [
        {"metric": "coverage", "slice": "all", "a": "trees-0", "b": "trees-1", "seed": seed}
        for seed in (3, 4)
    ]

    lines = list_coverage(rows, tests)

    assert [(line.search, line.row["value"], line.test) for line in lines] == [
        ("trees-1, seed 3", 0.3, tests[0]),
        ("trees-1, seed 4", 0.4, tests[1]),
    ]
    assert "| operations 9 | operations 10 |" in render_coverage(lines, layout="markdown")


SLICES = ("operations=3", "operations=4", "operations=10")


def _list_single(out: Path, stages: Sequence[PlannedStage]) -> list[Record]:
    """The rows of every seed of the searches that all seeds share."""
    files = [out / "stages" / one.folder_name / "rows.json" for one in stages if one.name != "trees-1"]
    return [row for one in files for row in read_json(one)["rows"]]


# The report


SHARES = {"policy-0": {3: 0.9, 4: 0.2}, "policy-1": {3: 0.95, 4: 0.6}, "policy-2": {3: 1.0, 4: 0.8}}
STAGES: list[Record] = [
    {"name": "policy-0", "use": "sft", "data": {"solutions": ["problems"]}},
    {"name": "trees-1", "use": "search", "model": "policy-0"},
    {"name": "policy-1", "use": "sft", "data": {"trees": ["trees-1"]}},
    {"name": "ppm-1", "use": "reward_model", "trees": ["trees-1"]},
    {"name": "trees-2", "use": "search", "model": "policy-1", "reward_model": "ppm-1"},
    {"name": "policy-2", "use": "sft", "data": {"trees": ["trees-1", "trees-2"]}},
]


def list_accuracy(policy: str, seed: int) -> list[Record]:
    context = RowContext(
        policy, policy, policy, "quantities", "h", "greedy", seed, train_flops=4e12 + seed * 2e12
    )
    slices = {f"operations={k}": share for k, share in SHARES[policy].items()}
    return [
        build_row(context, name, "pass@1", [share], compute_wilson_interval(int(100 * share), 100), [], 1)
        for name, share in {"all": sum(slices.values()) / 2, **slices}.items()
    ]


def build_run(folder: Path, seeds: Sequence[int] = (0,)) -> Path:
    """Two rounds as the pipeline leaves them, the second one better, and better still at the second seed."""
    rows: list[Record] = []
    tests: list[Record] = []
    for seed in seeds:
        rows += list_accuracy("policy-0", seed)
        rows += build_rows(grow(3, has_extra=True), seed=seed)
        rows += list_accuracy("policy-1", seed)
        second = build_rows(grow(5 + seed), "trees-2", "policy-1", seed)
        rows += [{**row, "reward_model": "ppm-1"} for row in second] + list_accuracy("policy-2", seed)
        found = compare_coverage(
            PROBLEMS, ("trees-1", list_solved(3)), ("trees-2", list_solved(5 + seed)), strategy="tree_search"
        )
        tests += [{**test, "seed": seed} if len(seeds) > 1 else test for test in found]
    names = [f"{stage['name']}-{seed}a" for seed in seeds for stage in STAGES]
    headline = {"suite": "quantities", "metric": "pass@1"}
    write_json(folder / "recipe.json", {"name": "evolved", "headline": headline, "stages": STAGES})
    write_json(folder / "summary.json", {"schema": 1, "rows": rows, "tests": tests, "stages": names})
    for seed in seeds:
        for stage in STAGES:
            path = folder / "stages" / f"{stage['name']}-{seed}a"
            write_json(path / "config.json", stage)
            write_json(path / "manifest.json", {"stage": stage["name"], "kind": stage["use"], "seed": seed})
            (path / "DONE").touch()
    return folder


class Tables(HTMLParser):
    """The cells of every table row, as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.is_in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.is_in_cell = self.is_in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.is_in_cell:
            self.rows[-1][-1] += data


def test_a_line_follows_for_the_first_policy_each_search_and_each_policy_it_taught(tmp_path: Path) -> None:
    run = load_run(build_run(tmp_path))
    lines = list_lines(run, run.rows)
    assert [(line.name, line.measured) for line in lines] == [
        ("policy-0", "pass@1 on quantities, greedy"),
        ("trees-1", "coverage by policy-0"),
        ("", "without extra simulations"),
        ("policy-1", "pass@1 on quantities, greedy"),
        ("trees-2", "coverage by policy-1 with ppm-1"),
        ("policy-2", "pass@1 on quantities, greedy"),
    ]
    assert [line.by_slice["operations=4"].value for line in lines] == [0.2, 3 / 8, 2 / 8, 0.6, 5 / 8, 0.8]
    assert [line.flops for line in lines] == [4e12, 2400.0, None, 4e12, 2400.0, 4e12]


def test_the_section_has_a_table_and_a_chart_of_coverage(tmp_path: Path) -> None:
    html = write_report(build_run(tmp_path)).read_text("utf-8")
    section = html.partition('id="rounds"')[2].partition("</section>")[0]
    header, first, searched, *_ = Tables(section).rows
    assert header[1:] == [
        *("all", "operations 3", "operations 4", "operations 10"),
        *("false positives", "tokens a problem", "simulations a tree", "slots busy", "FLOP"),
    ]
    low, high = compute_wilson_interval(3, 8)
    assert first[4] == "—"
    assert searched[4] == f"37.5% [{100 * low:.1f}, {100 * high:.1f}]"
    assert searched[5].startswith("50.0% [")
    assert searched[6:] == ["35", "4.5", "93%", "2.4k"]
    assert section.count("<svg") == 1
    assert section.count('class="dot') == 2 * 3
    assert ">trees-1</li>" in section


def test_what_a_search_gained_stands_below_it_with_a_test_for_each_slice_and_seed(tmp_path: Path) -> None:
    (first,) = (
        row
        for row in Tables(str(render_rounds(load_run(build_run(tmp_path / "1"))))).rows
        if "against" in row[0]
    )
    assert first[0] == "against trees-1"
    assert first[1:5] == ["+25.0 points p = 0.031", *["+25.0 points p = 0.5"] * 3]
    several = build_run(tmp_path / "2", seeds=(0, 1))
    (row,) = (row for row in Tables(str(render_rounds(load_run(several)))).rows if "against" in row[0])
    assert row[4] == "+25.0 points p = 0.5 seed 0+37.5 points p = 0.25 seed 1"


def test_over_several_seeds_figures_are_means_with_the_range_of_the_seeds(tmp_path: Path) -> None:
    run = load_run(build_run(tmp_path, seeds=(0, 1)))
    html = str(render_rounds(run))
    lines = {line.name: line for line in list_lines(run, run.rows)}
    assert lines["trees-2"].by_slice["all"] == pytest.approx((5.5 / 8, 5 / 8, 6 / 8, 2))
    assert lines["policy-2"].flops == 5e12
    assert re.search(r"<b>68\.8%</b> <small>62\.5–75\.0%</small>", html)


def test_where_a_test_is_over_all_seeds_those_of_single_seeds_are_left_out(tmp_path: Path) -> None:
    run = load_run(build_run(tmp_path, seeds=(0, 1)))
    of_single = {line.name: line.tests for line in list_lines(run, run.rows)}["trees-2"]
    assert [test["seed"] for test in of_single["all"]] == [0, 1]

    joint = {**{key: value for key, value in of_single["all"][0].items() if key != "seed"}, "seeds": [0, 1]}
    run = replace(run, tests=[*run.tests, joint])
    assert {line.name: line.tests for line in list_lines(run, run.rows)}["trees-2"] == {"all": [joint]}


def test_each_arm_of_a_sweep_has_its_own_rounds(tmp_path: Path) -> None:
    folder = build_run(tmp_path)
    summary = read_json(folder / "summary.json")
    arms = ("guided", "unguided")
    rows, tests = ([{**one, "arm": arm} for arm in arms for one in summary[key]] for key in ("rows", "tests"))
    write_json(folder / "summary.json", {**summary, "rows": rows, "tests": tests})
    html = str(render_rounds(load_run(folder)))
    assert html.count("<figure>") == 2
    assert "<b>guided</b>" in html
    assert Tables(html).rows[:8] == Tables(html).rows[8:]


def test_the_chart_has_the_searches_that_nothing_was_trained_on(tmp_path: Path) -> None:
    run = load_run(build_run(tmp_path))
    assert [line.teaches for line in list_lines(run, run.rows) if line.is_search] == [True, True]
    html = str(render_rounds(run))
    assert "trees-1" in html.partition("<table")[0]

    unseen = [
        {**row, "suite": "coverage-1", "stage": "policy-1"} for row in run.rows if row["suite"] == "trees-1"
    ]
    html = str(render_rounds(replace(run, rows=[*run.rows, *unseen])))
    chart = html.partition("<table")[0]
    assert "coverage-1" in chart
    assert "trees-1" not in chart
    assert "trees-1" in html


def test_a_run_without_a_search_has_no_such_section(tmp_path: Path) -> None:
    folder = build_run(tmp_path)
    summary = read_json(folder / "summary.json")
    rows = [row for row in summary["rows"] if row["suite"] == "quantities"]
    write_json(folder / "summary.json", {**summary, "rows": rows})
    assert render_rounds(load_run(folder)) is None
    assert render_rounds(Run("empty", {}, [], [], [])) is None


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_values_of_any_wrong_kind_never_stop_the_section(share: float, tmp_path: Path) -> None:
    random = Random(2)
    for number in range(6):
        folder = build_run(tmp_path / str(number), seeds=(0, 1))
        for path in folder.rglob("*.json"):
            path.write_text(json.dumps(_replace_some(read_json(path), share, random)), "utf-8")
        render_rounds(load_run(folder))
