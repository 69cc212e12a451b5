"""The report's section on the first wrong steps that reward models find."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ponderosa.artifacts import read_json
from ponderosa.evaluation.summary import RowContext, build_row
from ponderosa.metrics import compute_wilson_interval
from ponderosa.report import write_report
from ponderosa.report.first_errors import render_first_errors
from ponderosa.report.run import Run, load_run
from synthetic_run import write_json
from test_report import _replace_some
from test_report_rounds import Tables

FOUND = {"ppm": 60, "orm": 45}
"""Of a hundred."""


def build_run(folder: Path, seeds: Sequence[int] = (0,)) -> Path:
    """A PPM and its control, scored on planted errors of two kinds by one rule."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for model, found in FOUND.items():
            context = RowContext(model, model, model, "planted", "h", "drop", seed)
            for name, metric, hits in (
                ("all", "erroneous_accuracy", found + 10 * seed),
                ("all", "correct_accuracy", 90),
                ("all", "first_error_f1", 70),
                ("all", "first_error_accuracy", 75),
                ("kind=wrong_number", "erroneous_accuracy", found - 20),
                ("kind=wrong_operation", "erroneous_accuracy", found + 20),
            ):
                values = [1.0] * hits + [0.0] * (100 - hits)
                interval = compute_wilson_interval(hits, 100)
                rows.append(build_row(context, name, metric, values, interval, [], 1))
    test = {"suite": "planted", "slice": "all", "strategy": "drop", "metric": "first_error_accuracy"}
    test |= {
        "a": "ppm",
        "b": "orm",
        "value_a": 0.75,
        "value_b": 0.6,
        "only_a": 20,
        "only_b": 5,
        "p_value": 0.004,
    }
    write_json(folder / "recipe.json", {"name": "scored"})
    tests = [{**test, "seed": seed} for seed in seeds]
    write_json(folder / "summary.json", {"schema": 1, "rows": rows, "tests": tests, "stages": []})
    return folder


def test_each_reward_model_and_rule_has_a_line_with_its_test(tmp_path: Path) -> None:
    html = write_report(build_run(tmp_path)).read_text("utf-8")
    section = html.partition('id="first-wrong-steps"')[2].partition("</section>")[0]
    header, ppm, orm = Tables(section).rows
    assert header[2:5] == ["first wrong step found", "right solution left alone", "F1"]
    low, high = compute_wilson_interval(60, 100)
    assert ppm[:3] == ["ppm", "drop", f"60.0% [{100 * low:.1f}, {100 * high:.1f}]"]
    assert (ppm[5], orm[5]) == ("—", "−15.0 points p = 0.004 vs ppm")
    assert "100 right solutions · 100 with an error" in section
    assert header[6:] == ["found, kind wrong number", "found, kind wrong operation"]
    assert [cell.partition(" ")[0] for cell in orm[6:]] == ["25.0%", "65.0%"]


def test_over_several_seeds_there_are_means_and_ranges_and_no_single_test(tmp_path: Path) -> None:
    html = str(render_first_errors(load_run(build_run(tmp_path, seeds=(0, 1)))))
    _, ppm, orm = Tables(html).rows
    assert ppm[2] == "65.0% 60.0–70.0%"
    assert (ppm[5], orm[5]) == ("—", "—")


def test_a_run_that_measured_no_reward_model_has_no_such_section() -> None:
    assert render_first_errors(Run("empty", {}, [], [], [])) is None


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_values_of_any_wrong_kind_never_stop_the_section(share: float, tmp_path: Path) -> None:
    random = Random(4)
    for number in range(8):
        folder = build_run(tmp_path / str(number), seeds=(0, 1))
        for path in folder.rglob("*.json"):
            path.write_text(json.dumps(_replace_some(read_json(path), share, random)), "utf-8")
        render_first_errors(load_run(folder))
