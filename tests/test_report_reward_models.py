"""The report's section on what reward models know of trees they did not learn from."""

from pathlib import Path
from typing import Any

import pytest

from ponderosa.artifacts import write_json
from ponderosa.report import write_report
from ponderosa.report.reward_models import render_reward_models
from ponderosa.report.run import load_run

BIN = {"predicted": -0.5, "observed": 0.4, "low": 0.2, "high": 0.6, "nodes": 10, "problems": 5}
RANKING = {"pairs": 31, "problems": 20, "accuracy": 0.745, "low": 0.57, "high": 0.9}
HELD_OUT = {
    "pairs": {"step": RANKING, "solution": None, "all": RANKING},
    "calibration": {
        "nodes": 868,
        "problems": 40,
        "error": 0.243,
        "squared_error": 0.96,
        "baseline": 0.924,
        "bins": [BIN, {**BIN, "predicted": 0.5}],
    },
}


def write_stage(run: Path, held_out: Any, seed: int = 0) -> None:
    folder = run / "stages" / f"ppm-00f{seed}"
    manifest = {"stage": "ppm", "kind": "reward_model", "seed": seed, "facts": {"kind": "q_regression"}}
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "held_out.json", held_out)
    (folder / "DONE").touch()


def test_pairs_errors_and_the_calibration_curve_are_shown(tmp_path: Path) -> None:
    write_stage(tmp_path, HELD_OUT)

    html = write_report(tmp_path).read_text("utf-8")

    section = html.partition('id="reward-models"')[2].partition("</section>")[0]
    assert "<small>q regression</small>" in section
    assert section.count("<b>74.5%</b><small>[57.0, 90.0] of 31</small>") == 2
    assert all(f"<td>{value}</td>" in section for value in ("868", "0.960", "0.924", "0.243"))
    assert '<b class="down">−4%</b>' in section, "more error than a constant has"
    assert section.count('class="dot') == 2
    assert section.count('class="diagonal"') == 1


def test_a_run_without_reward_models_has_no_such_section(tmp_path: Path) -> None:
    assert render_reward_models(load_run(tmp_path)) is None


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        {"pairs": 3, "calibration": "<i>"},
        {"pairs": {"step": 7}, "calibration": {"bins": [3, {"predicted": "x"}]}},
    ],
)
def test_what_is_damaged_is_left_out(damaged: Any, tmp_path: Path) -> None:
    write_stage(tmp_path, damaged)
    assert "<i>" not in write_report(tmp_path).read_text("utf-8")
