"""The report's section on preference training: margins by length difference."""

from pathlib import Path
from typing import Any

from ponderosa.artifacts import write_json
from ponderosa.data.margins import summarise_margins
from ponderosa.report import write_report
from ponderosa.report.charts import Point, Series, render_signed
from ponderosa.report.preferences import render_preferences
from ponderosa.report.run import load_run


def write_stage(run: Path, margins: Any, seed: int = 0) -> None:
    folder = run / "stages" / f"dpo-00f{seed}"
    write_json(folder / "manifest.json", {"stage": "dpo", "kind": "dpo", "seed": seed})
    write_json(folder / "margins.json", margins)
    (folder / "DONE").touch()


def test_a_dpo_stage_shows_both_curves_and_what_they_owe_to_length(tmp_path: Path) -> None:
    differences = [*range(-40, 40)]
    names = [str(number) for number in range(80)]
    trained = summarise_margins([0.1 + 0.01 * d for d in differences], differences, names)
    reference = summarise_margins([-0.5 * d for d in differences], differences, names)
    write_stage(tmp_path, {"beta": 0.1, "trained": trained, "reference": reference})

    html = write_report(tmp_path).read_text()

    section = html.partition('id="preferences"')[2].partition("</section>")[0]
    assert section.count("<svg") == 2
    assert section.count('class="dot') == 16
    assert "80 pairs · above 0 in 61.3% · mean 0.095 · correlation with length 1.00" in section
    assert "correlation with length −1.00" in section


def test_the_first_seed_is_in_sight_and_the_others_are_folded(tmp_path: Path) -> None:
    summary = summarise_margins([0.1, 0.2, 0.3], [1, 2, 3], ["a", "b", "c"])
    for seed in (7, 8):
        write_stage(tmp_path, {"trained": summary, "reference": summary}, seed)

    in_sight, fold, folded = str(render_preferences(load_run(tmp_path))).partition("<details>")

    assert in_sight.count("dpo, seed 7</b>") == folded.count("dpo, seed 8</b>") == 2
    assert fold
    assert folded.startswith("<summary>seed 8</summary>")


def test_a_run_without_pairs_has_no_such_section(tmp_path: Path) -> None:
    assert render_preferences(load_run(tmp_path)) is None
    assert "preferences" not in write_report(tmp_path).read_text().lower()


def test_damaged_margins_are_left_out_and_never_drawn_elsewhere(tmp_path: Path) -> None:
    broken = {"bins": [{"length_difference": "<b>", "margin": None}, 7], "pairs": "<i>", "accuracy": []}
    write_stage(tmp_path, {"trained": broken, "reference": None})
    html = write_report(tmp_path).read_text()
    assert html.count("No finite points.") == 2
    assert "<i>" not in html


def test_a_signed_chart_keeps_zero_in_sight_and_every_mark_inside() -> None:
    points = (Point(3, 0.5, 0.2, 0.9), Point(9, 2.0, 1.0, 4.0))
    svg = render_signed(Series("margin", points), x_title="x", title="t")
    assert ">0</text>" in svg
    assert 'cx="' in svg
    single = render_signed(Series("margin", (Point(0, 0),)), x_title="x", title="t")
    assert "nan" not in single
    assert "inf" not in single
