"""The benchmark of tree search on a handful of trees: that both sides do the same work, and what a row says of it."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from planted_trees import SeededPolicy
from ponderosa.engines.protocol import Sampling
from ponderosa.formats import PLAIN_CODE
from ponderosa.records import Problem
from ponderosa.search.driver import build_context as build_search_context
from ponderosa.search.labelling import TreeSearch
from ponderosa.stages.search import Config
from search_fakes import FakeScorer
from test_stages import build_context
from tiny_runs import save_foreign_model

BENCH = Path(__file__).resolve().parents[1] / "bench" / "search.py"


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(BENCH))


def test_both_sides_grow_the_same_trees_and_the_sample_is_a_part(
    bench: dict[str, Any], tmp_path: Path
) -> None:
    engine, scorer = SeededPolicy(num_texts=3, num_slots=4), FakeScorer(lambda text: 0.25)
    config = Config(
        model="policy",
        sources=({"task": "quantities", "count": 6},),
        search=TreeSearch(simulations=3, candidates=2),
        num_slots=4,
    )
    context = build_search_context(engine, PLAIN_CODE, sampling=Sampling(), scorer=scorer)
    problems = [Problem(f"q{i}", str(i % 3), id=f"p{i}") for i in range(6)]

    row = bench["compare"](
        bench["Search"](engine, scorer, context, config, problems), build_context(tmp_path), 4
    )

    assert (row["trees"], row["sample"], row["same_trees"]) == (6, 4, 4)
    assert row["cost"]["generated_tokens"] / row["seconds"] == pytest.approx(row["ours"])
    assert row["cost"]["executions"] > 0
    assert row["cost"]["scored_tokens"] > 0
    assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])
    assert row["ratio_low"] <= row["ratio_high"]
    assert row["target"] == 3.0


def test_the_command_writes_a_row_for_each_number_of_candidates(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = save_foreign_model(tmp_path / "model"), tmp_path / "rows.json"
    sizes = ["--trees", "3", "--sample", "2", "--slots", "4", "--simulations", "2", "--max-tokens", "8"]
    bench["main"](
        ["--model", str(model), *sizes, "--candidates", "1", "2", "--workers", "1", "--json", str(out)]
    )

    found = json.loads(out.read_text())
    assert [row["work"] for row in found["rows"]] == [
        "search trees, 1 candidate an expansion",
        "search trees, 2 candidates an expansion",
    ]
    assert [row["target"] for row in found["rows"]] == [10.0, 3.0]
    assert all(0 < row["occupancy"] <= 1 and row["trees"] == 3 for row in found["rows"])
    assert found["settings"]["reward_model"] == "random head"
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_cannot_be_measured_is_refused(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").touch()
    for arguments, message in (
        (["--model", "nowhere"], "there is no model in nowhere: run `ponderosa run quickstart`"),
        (["--model", str(tmp_path), "--sample", "1"], "--sample 1; allowed: 2 to --trees (1024)"),
    ):
        with pytest.raises(SystemExit):
            bench["main"](arguments)
        assert message in capsys.readouterr().err
