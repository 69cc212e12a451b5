"""The pivotal stage on a model that tosses a coin: what it finds, what it keeps, and that a killed one goes on."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ponderosa.artifacts import read_table, write_json
from ponderosa.config import parse_config
from ponderosa.data.packing import build_batches
from ponderosa.data.rows import build_solution_row
from ponderosa.engines.codec import load_codec
from ponderosa.engines.loading import load_engine
from ponderosa.engines.protocol import Sampling
from ponderosa.errors import ConfigError
from ponderosa.formats import PLAIN_CODE, load_format
from ponderosa.hash_cache import hash_directory
from ponderosa.model_directory import load_model, save_model
from ponderosa.planning import plan_recipe
from ponderosa.progress import SILENT
from ponderosa.records import Problem, Step
from ponderosa.search.driver import build_context as build_search_context
from ponderosa.search.pivotal import PivotalSearch, SearchedProblem
from ponderosa.search.solution import Limits
from ponderosa.stages import dpo, pivotal
from ponderosa.stages.pairs import load_pairs
from ponderosa.stages.stage import Context, Outcome
from ponderosa.steps import render_steps
from ponderosa.training.loop import FixedBatches, TrainConfig, train
from ponderosa.training.optim import OptimizerConfig
from tiny_runs import build_recipe
from tiny_training import TOKENIZER, build_tiny_model

HEADS, TAILS = "7", "3"
QUESTIONS = [f"Ann has {number} apples." for number in range(4)]
SEARCH = {"n_question": 32, "n_screen": 24, "n_confirm": 48}
SETTINGS: dict[str, Any] = {
    "model": "sft",
    "sources": [{"task": "coins.jsonl", "count": 3}],
    "search": SEARCH,
    "max_tokens": 24,
    "num_slots": 32,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small computes slower on several threads, and far slower where others want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with problems whose answer is heads, one that nobody can answer, and a model that prints heads half
    of the time and tails the other half."""
    root = tmp_path_factory.mktemp("pivotal")
    model = build_tiny_model()
    save_model(root / "sft" / "model", model, TOKENIZER, PLAIN_CODE)
    codec = load_codec(root / "sft" / "model")
    rows = []
    for question in QUESTIONS:
        for side in (HEADS, TAILS):
            step = Step(f"print({side})", f"print({side})", side, "ok")
            segments = render_steps([step], PLAIN_CODE.delimiters)
            prompt_ids = codec.encode_prompt(PLAIN_CODE, question)
            rows.append(build_solution_row(prompt_ids, segments, codec.encode, eos_id=codec.eos_id))
    batches = build_batches(rows, tokens_per_step=600, seed=0, epochs=60)
    settings = TrainConfig(optimizer=OptimizerConfig(name="adamw", learning_rate=0.01), dtype="float32")
    train(model, FixedBatches(batches), settings, folder=root / "training", seed=0)
    save_model(root / "sft" / "model", model, TOKENIZER, PLAIN_CODE)
    problems = [{"question": question, "answer": HEADS, "split": "train"} for question in QUESTIONS]
    problems[0]["answer"] = "12"
    (root / "coins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    return root


def build_context(root: Path, folder: Path) -> Context:
    return Context("pivotal", folder, {"sft": root / "sft"}, root, 0, "cpu", "float32", 1, SILENT)


def run_pivotal(root: Path, folder: Path, **changes: Any) -> Outcome:
    config = parse_config(pivotal.Config, {**SETTINGS, **changes}, where="test")
    outcome = pivotal.run(config, build_context(root, folder))
    write_json(folder / "manifest.json", {"facts": outcome.facts})
    return outcome


@pytest.fixture(scope="module")
def done(root: Path) -> tuple[Path, Outcome]:
    folder = root / "pivotal"
    return folder, run_pivotal(root, folder, sources=[{"task": "coins.jsonl"}])


def test_the_token_that_decides_is_found_with_both_sides_of_its_evidence(done: tuple[Path, Outcome]) -> None:
    folder, outcome = done
    pivotal_rows = [row for row in read_table(folder / pivotal.TOKENS) if row["is_pivotal"]]
    assert len(pivotal_rows) == 6
    for row in pivotal_rows:
        assert row["token"] in (HEADS, TAILS)
        assert row["written"].endswith("print(")
        assert row["p_before_low"] < row["p_before"] < row["p_before_high"]
        assert row["p_after"] == pytest.approx(float(row["token"] == HEADS), abs=0.1)
        assert row["adjusted_p"] >= row["p_value"]
        assert row["confirm_before_num_samples"] == 48
        assert row["screen_after_num_samples"] == 24
        assert 0 <= row["truncated_before"] <= 0.2
    assert outcome.dropped == {"too_hard": 1}
    assert (outcome.facts["problems"], outcome.facts["searched"]) == (4, 3)


def test_pairs_are_single_tokens_with_the_models_own_log_probabilities(
    root: Path, done: tuple[Path, Outcome]
) -> None:
    folder, outcome = done
    model = load_model(root / "sft" / "model")
    codec = load_codec(root / "sft" / "model")
    pairs = load_pairs(folder)
    assert outcome.kept == outcome.facts["pairs"] == len(pairs) == 6
    assert outcome.facts["reference"] == hash_directory(root / "sft" / "model")
    for one in pairs:
        assert (codec.decode(one.pair.chosen_ids), codec.decode(one.pair.rejected_ids)) == (HEADS, TAILS)
        assert (one.pair.chosen_weights, one.pair.rejected_weights) == ((1.0,), (1.0,))
        with torch.no_grad():
            logits_V = model(torch.tensor([one.pair.prompt_ids])).logits[0, -1]
            logprobs_V = logits_V.log_softmax(-1).tolist()
        assert one.chosen_logprobs == pytest.approx([logprobs_V[one.pair.chosen_ids[0]]], abs=1e-4)
        assert one.rejected_logprobs == pytest.approx([logprobs_V[one.pair.rejected_ids[0]]], abs=1e-4)


def test_what_was_spent_is_stated_by_phase_and_within_the_stated_budget(done: tuple[Path, Outcome]) -> None:
    _, outcome = done
    facts = outcome.facts
    num_rollouts = sum(facts["rollouts"].values())
    assert set(facts["rollouts"]) == set(facts["truncated_frac"]) == {"question", "screen", "confirm"}
    assert facts["rollouts"]["question"] == 4 * 32
    assert num_rollouts <= facts["max_rollouts"] == 4 * PivotalSearch(**SEARCH).max_rollouts
    assert outcome.ledger.generated_tokens > num_rollouts
    assert outcome.ledger.executions > 0
    assert outcome.ledger.eval_flops > 0


def test_a_model_trained_on_its_pivotal_pairs_prefers_the_better_tokens(
    root: Path, done: tuple[Path, Outcome], tmp_path: Path
) -> None:
    training = dpo.DPOTraining(optimizer=dpo.DPOOptimizer(learning_rate=1e-2), dtype="float32")
    config = dpo.Config(model="sft", pairs=("pivotal",), train=training, tokens_per_step=100, epochs=3)
    context = replace(build_context(root, tmp_path), inputs={"sft": root / "sft", "pivotal": done[0]})
    outcome = dpo.run(config, context)
    assert outcome.facts["accuracy"] == 1.0
    assert outcome.facts["margin"] > 0


def test_a_search_killed_anywhere_continues_to_the_same_findings(root: Path, tmp_path: Path) -> None:
    engine = load_engine(root / "sft" / "model", device="cpu", num_slots=32)
    search_context = build_search_context(
        engine, load_format(root / "sft" / "model"), sampling=Sampling(), limits=Limits(max_tokens=24)
    )
    problems = [Problem(question, HEADS, split="train") for question in QUESTIONS]
    search = PivotalSearch(n_question=16, n_screen=8, n_confirm=8)

    def search_in(name: str) -> list[SearchedProblem]:
        context = build_context(root, tmp_path / name)
        return pivotal.search_problems(engine, problems, search, search_context, context, unit_problems=2)

    whole = search_in("whole")
    journal = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "journal.jsonl").write_bytes(journal[: len(journal) // 2])

    assert search_in("killed") == whole == search_in("whole")
    assert any(one.candidates for one in whole)
    assert (tmp_path / "killed" / "journal.jsonl").read_bytes() == journal


def test_a_stage_killed_after_its_tables_writes_the_same_ones(
    root: Path, done: tuple[Path, Outcome], tmp_path: Path
) -> None:
    folder, outcome = done
    (tmp_path / "journal.jsonl").write_bytes((folder / "journal.jsonl").read_bytes())
    assert run_pivotal(root, tmp_path, sources=[{"task": "coins.jsonl"}]) == outcome
    for name in ("tokens.parquet", "pairs.parquet"):
        assert read_table(tmp_path / name) == read_table(folder / name)


def test_a_search_without_a_pair_says_what_it_spent_and_what_to_change(root: Path, tmp_path: Path) -> None:
    tails = [{"question": QUESTIONS[0], "answer": "12", "split": "train"}]
    (tmp_path / "tails.jsonl").write_text(json.dumps(tails[0]) + "\n")
    config = parse_config(pivotal.Config, {**SETTINGS, "sources": [{"task": "tails.jsonl"}]}, where="test")
    context = replace(build_context(root, tmp_path / "stage"), base=tmp_path)
    with pytest.raises(ConfigError, match=r"1 problems gave no pair: .*ask more problems"):
        pivotal.run(config, context)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"task": "coins.jsonl", "split": "test"}]}, "'train' or 'selection'"),
        ({"search": {"min_p": 0.9}}, "no question would be searched"),
        ({"search": {"n_screens": 3}}, "did you mean 'n_screen'"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(pivotal.Config, {**SETTINGS, **changes}, where="test")


def test_a_recipe_leads_from_a_model_to_its_pivotal_pairs_and_on_to_dpo(root: Path) -> None:
    recipe = build_recipe(
        {"name": "sft", "use": "import_model", "path": str(root / "sft" / "model")},
        {"name": "pivotal", "use": "pivotal", **SETTINGS},
        {"name": "dpo", "use": "dpo", "pairs": ["pivotal"]},
    )
    stages = {stage.name: stage for stage in plan_recipe(recipe, root)}
    assert stages["pivotal"].needs == ("sft",)
    assert stages["dpo"].needs == ("sft", "pivotal")
