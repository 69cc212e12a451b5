"""The report's curves by step: of reinforcement learning and of preference training."""

import json
import math
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ponderosa.artifacts import read_json
from ponderosa.report import write_report
from ponderosa.report.charts import Point, Series, render_lines
from ponderosa.report.reinforcement import render_reinforcement
from ponderosa.report.run import load_run
from ponderosa.report.training_curves import render_training
from synthetic_run import build_manifest, build_run, write_json

TITLES = (
    "Accuracy",
    "Reward",
    "Length",
    "Cut off",
    "Flat groups",
    "Entropy",
    "Clipped",
    "Mismatch",
    "Temperature",
)


def list_rl_steps(num_steps: int = 60, seed: int = 3) -> list[dict[str, Any]]:
    """A policy that gets better, shorter and surer, with the noise of 128 attempts a step."""
    random = Random(seed)
    steps = []
    for i in range(num_steps):
        done = 1 - math.exp(-3 * i / num_steps)
        accuracy = min(1.0, max(0.0, 0.38 + 0.37 * done + random.gauss(0, 0.045)))
        steps.append(
            {
                "step": i + 1,
                "tokens": 21_000 * (i + 1),
                "loss": random.gauss(0, 1e-8),
                "accuracy": accuracy,
                "length": 142 - 30 * done + random.gauss(0, 5),
                "truncated_frac": max(0.0, 0.09 - 0.08 * done + random.gauss(0, 0.01)),
                "flat_frac": min(1.0, max(0.0, 0.31 + 0.2 * done + random.gauss(0, 0.07))),
                "baseline": accuracy - 0.2 * (0.1 - 0.08 * done),
                "rewards": {"correctness": accuracy, "repetition": -0.1 + 0.08 * done},
                "entropy": 0.62 - 0.41 * done + random.gauss(0, 0.02),
                "clipped_low": abs(random.gauss(0, 3e-4)),
                "clipped_high": abs(random.gauss(1e-3, 4e-4)),
                "engine_gap": 1.4e-7 + 2e-7 * done + abs(random.gauss(0, 2e-8)),
                "temperature": max(0.6, 1 - 0.4 * i / (num_steps / 2)),
                "tokens_per_s": 3_100 + i,
            }
        )
    return steps


def list_dpo_steps(num_steps: int = 80) -> list[dict[str, Any]]:
    random = Random(5)
    return [
        {
            "step": i + 1,
            "tokens": 4_000 * (i + 1),
            "loss": 0.69 * math.exp(-i / num_steps) * math.exp(random.gauss(0, 0.06)),
            "accuracy": min(1.0, 0.5 + 0.45 * i / num_steps + random.gauss(0, 0.03)),
            "margin": 1.4 * i / num_steps + random.gauss(0, 0.1),
            "chosen_reward": -0.3 * i / num_steps,
            "rejected_reward": -1.7 * i / num_steps,
            "tokens_per_s": 9_000,
        }
        for i in range(num_steps)
    ]


def add_stage(run: Path, name: str, kind: str, steps: list[dict[str, Any]]) -> Path:
    """One more trained stage in a run folder, and in its summary if it has one."""
    folder = run / "stages" / f"{name}-00ff"
    write_json(folder / "manifest.json", build_manifest(name, kind, "00ff"))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (folder / "DONE").touch()
    summary = run / "summary.json"
    if summary.exists():
        known = read_json(summary)
        write_json(summary, {**known, "stages": [*known["stages"], folder.name]})
    return folder


def read_section(run: Path, anchor: str) -> str:
    return write_report(run).read_text().partition(f'id="{anchor}"')[2].partition("</section>")[0]


def test_an_rl_stage_shows_what_it_earned_and_how_it_changed(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    add_stage(run, "rl", "rl", list_rl_steps())

    section = read_section(run, "reinforcement-learning")

    assert re.findall(r"<figcaption><b>(.*?)</b>", section) == list(TITLES)
    assert [f"{title} of rl" in section for title in TITLES] == [True] * len(TITLES)
    for line in ("correctness", "repetition", "weighted sum", "above", "below"):
        assert f"</span>{line}</li>" in section
    assert re.search(r" accuracy 4\d\.?\d?% → 7\d\.?\d?%</summary>", section)
    assert "60 optimizer steps over 1.26M tokens" in section
    assert "3,130 tokens a second (median of steps)" in section


def test_a_line_under_a_chart_says_where_its_first_and_last_tenth_were(tmp_path: Path) -> None:
    steps = [{"step": i, "flat_frac": 0.25 if i <= 2 else 0.5 if i <= 18 else 1.0} for i in range(1, 21)]
    add_stage(tmp_path, "rl", "rl", steps)
    html = render_reinforcement(load_run(tmp_path))
    assert html is not None
    assert "25% → 100%" in html


def test_a_reference_adds_its_divergence(tmp_path: Path) -> None:
    add_stage(tmp_path, "rl", "rl", [{**step, "kl_reference": 0.01} for step in list_rl_steps(9)])
    assert "KL of rl" in read_section(tmp_path, "reinforcement-learning")


def test_rebalancing_adds_the_baseline_both_ways(tmp_path: Path) -> None:
    kept = {"full_baseline": 0.125, "rebalanced_baseline": 0.5}
    steps = list_rl_steps(9)
    add_stage(tmp_path, "rl", "rl", [steps[0], *({**step, **kept} for step in steps[1:])])
    section = read_section(tmp_path, "reinforcement-learning")
    assert "Baseline of rl" in section
    assert "before 0.125 → 0.125 · after 0.5 → 0.5" in section


def test_a_policy_gradient_has_no_curve_of_its_loss_and_is_not_missed_there(tmp_path: Path) -> None:
    add_stage(tmp_path, "rl", "rl", list_rl_steps())
    html = write_report(tmp_path).read_text()
    assert render_training(load_run(tmp_path)) is None
    assert "No stage left training metrics" not in html
    assert "last loss" not in html


def test_several_rl_stages_are_folded_and_the_last_is_open(tmp_path: Path) -> None:
    for name in ("rl-a", "rl-b"):
        add_stage(tmp_path, name, "rl", list_rl_steps(20))
    section = read_section(tmp_path, "reinforcement-learning")
    assert re.findall(r'<details( open="")?><summary><b>(.*?)</b>', section) == [
        ("", "rl-a"),
        (' open=""', "rl-b"),
    ]


def test_a_run_without_rl_has_no_such_section(tmp_path: Path) -> None:
    build_run(tmp_path)
    assert render_reinforcement(load_run(tmp_path)) is None
    assert "reinforcement-learning" not in write_report(tmp_path).read_text()


def test_an_unfinished_dpo_stage_already_shows_its_steps(tmp_path: Path) -> None:
    add_stage(tmp_path, "dpo", "dpo", list_dpo_steps())
    section = read_section(tmp_path, "preferences")
    assert section.count("<svg") == 3
    for title in ("Accuracy of dpo", "Margin of dpo", "Implicit reward of dpo"):
        assert title in section
    assert "</span>chosen</li>" in section
    assert "</span>rejected</li>" in section


@pytest.mark.parametrize(
    "junk", [None, True, "<b>", [], {}, {"<i>": "<i>"}, 1e308, -1e308, float("nan"), 10**400, 5e-324]
)
def test_damaged_steps_are_left_out_and_never_drawn_elsewhere(junk: Any, tmp_path: Path) -> None:
    steps = list_rl_steps(12)
    for number, key in enumerate(steps[0]):
        steps[number % 12][key] = junk
    steps[2]["accuracy"] = steps[3]["accuracy"] = junk
    steps[5]["rewards"] = {"<script>": 1.0, "correctness": junk}
    add_stage(tmp_path, "rl", "rl", steps)
    section = read_section(tmp_path, "reinforcement-learning")
    drawn = re.findall(r'points="(.*?)"', section)
    assert drawn
    for x, y in (pair.split(",") for points in drawn for pair in points.split()):
        assert 44 <= float(x) <= 350
        assert 12 <= float(y) <= 185
    assert "<script>" not in section
    assert "<i>" not in section


def test_lines_keep_zero_in_sight_and_whole_steps_on_their_axis() -> None:
    series = Series("reward", (Point(1, -0.5), Point(2, -0.25), Point(3, -0.5)))
    svg = render_lines([series], x_title="steps", format_y="{:g}".format, title="t", is_noisy=False)
    assert svg.count("<polyline") == 1
    assert ">0</text>" in svg
    assert re.findall(r'middle">(\d+)</text>', svg) == ["1", "2", "3"]
    one = Series("reward", (Point(1, 0.5),))
    assert "Fewer than two" in render_lines([one], x_title="steps", format_y=str, title="t")


def test_the_mean_of_a_noisy_line_does_not_lag_behind_it() -> None:
    series = Series("entropy", tuple(Point(i, 2.0 * i) for i in range(101)))
    raw, mean = re.findall(
        r'points="(.*?)"', render_lines([series], x_title="steps", format_y=str, title="t")
    )
    middle = slice(6, -6)
    assert raw.split()[middle] == mean.split()[middle]
