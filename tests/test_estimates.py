"""What a plan says a stage costs at most, against what its ledger said when it had run."""

import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pytest

from ponderosa.config import parse_config
from ponderosa.engines.loading import load_engine
from ponderosa.errors import ConfigError
from ponderosa.ledger import Ledger, compute_forward_flops, count_matrix_parameters
from ponderosa.model_directory import load_model
from ponderosa.pipeline import estimate_stages, find_missing, run_recipe
from ponderosa.planning import RECIPES, PlannedStage, load_recipe, plan_recipe, plan_runs
from ponderosa.progress import SILENT
from ponderosa.report.numbers import MISSING, format_amount
from ponderosa.report.plan import NOTE, PlanLine, render_plan
from ponderosa.stages import dpo, pairs, rl
from ponderosa.stages.bounds import (
    PROMPT_TOKENS,
    UNKNOWN,
    Estimate,
    Lengths,
    Pairs,
    Rollouts,
    Solutions,
    bound_lengths,
)
from ponderosa.stages.estimates import estimate_stage
from ponderosa.stages.model_shape import DecoderSizes, ModelShape, plan_grown_shape, read_shape
from ponderosa.stages.stage import Context, get_stage
from ponderosa.training.model import ModelConfig, build_model
from tiny_pairs import save_tiny_model, save_tiny_rollouts
from tiny_runs import (
    EVALUATE_BASE,
    FAMILY,
    GROWN,
    MIDTRAINED,
    OPTIONS,
    SFT,
    build_recipe,
    find_stage,
    save_foreign_model,
)
from tiny_training import TOKENIZER

REWARD = """
def num_letters(attempt, verdict, context):
    "Hardly ever the same for all attempts of a group, so that groups are kept."
    return float(sum(map(ord, attempt.text)) % 97)
"""
ROLLED: dict[str, Any] = {
    "name": "rolled",
    "use": "rollout",
    "model": "base",
    "sources": [{"task": "quantities", "count": 3, "options": FAMILY}],
    "solutions": ["problems"],
    "limit": 2,
    "samples": 3,
    "max_tokens": 10,
    "num_slots": 8,
}
RL: dict[str, Any] = {
    "name": "rl",
    "use": "rl",
    "model": "base",
    "sources": [{"task": "quantities", "count": 6, "options": FAMILY}],
    "rewards": [{"use": "rewards.py:num_letters"}],
    "iterations": 2,
    "prompts": 2,
    "updates": 3,
    "samples": 3,
    "max_tokens": 8,
    "num_slots": 8,
}
MEASURED = {
    **EVALUATE_BASE,
    "suites": [{**EVALUATE_BASE["suites"][0], "strategy": "majority", "samples": 3}],
}
STAGES = (*GROWN, MIDTRAINED, SFT, ROLLED, RL, MEASURED)
SHAPE = ModelShape(matrix_parameters=1000, num_layers=2, width=8, attention_width=16, max_context=64)


@dataclass(frozen=True)
class Finished:
    """A recipe that has run: its stages, what was estimated before, and the ledgers."""

    stages: list[PlannedStage]
    estimates: dict[str, Estimate]
    ledgers: dict[str, Ledger]
    out: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("estimates")
    (folder / "rewards.py").write_text(REWARD)
    recipe, out = build_recipe(*STAGES), folder / "run"
    stages = plan_recipe(recipe, folder)
    estimates = estimate_stages(stages, folder, out)
    run_recipe(recipe, folder, out, OPTIONS)
    ledgers = [
        Ledger(**json.loads((find_stage(out, one.name) / "manifest.json").read_text())["ledger"])
        for one in stages
    ]
    names = [stage.name for stage in stages]
    return Finished(
        stages, dict(zip(names, estimates, strict=True)), dict(zip(names, ledgers, strict=True)), out
    )


def covers(estimate: Estimate, ledger: Ledger) -> bool:
    flops = ledger.train_flops + ledger.eval_flops
    return (
        estimate.train_tokens >= ledger.train_tokens
        and estimate.sampled_tokens >= ledger.generated_tokens
        and estimate.flops >= flops
    )


def estimate(kind: str, values: dict[str, Any], folder: Path = Path(), **products: Any) -> Estimate:
    """What a stage costs that reads stages which leave these products."""
    config = parse_config(get_stage(kind).Config, values, where=kind)
    upstream = {name: Estimate(product=product) for name, product in products.items()}
    return estimate_stage(kind, config, upstream, folder)


# Estimates and ledgers


def test_no_stage_costs_more_than_was_estimated(finished: Finished) -> None:
    exceeded = [
        name for name, ledger in finished.ledgers.items() if not covers(finished.estimates[name], ledger)
    ]
    assert exceeded == []
    assert finished.ledgers["rl"].train_tokens > 0
    assert finished.ledgers["evaluate-base"].eval_flops > 0


def test_only_texts_that_are_not_encoded_yet_have_no_bound(finished: Finished) -> None:
    unknown = [name for name, one in finished.estimates.items() if inf in (one.train_tokens, one.flops)]
    assert unknown == ["base", "midtrained"]
    assert all(one.sampled_tokens < inf for one in finished.estimates.values())


def test_a_grown_models_shape_is_known_before_it_is_grown(finished: Finished) -> None:
    grown = read_shape(find_stage(finished.out, "base") / "model")
    assert finished.estimates["base"].product == grown
    assert finished.estimates["rl"].product == grown


def test_of_a_finished_stage_a_plan_shows_what_it_did_cost(finished: Finished) -> None:
    again = estimate_stages(finished.stages, finished.out.parent, finished.out)
    for stage, one in zip(finished.stages, again, strict=True):
        ledger = finished.ledgers[stage.name]
        assert one.train_tokens == ledger.train_tokens
        assert one.sampled_tokens == ledger.generated_tokens
        assert one.flops == ledger.train_flops + ledger.eval_flops


@pytest.mark.parametrize("changes", [{"loss": "sigmoid"}, {"loss": "kto", "epochs": 2}])
def test_pairs_and_dpo_cost_no_more_than_was_estimated(tmp_path: Path, changes: dict[str, Any]) -> None:
    folders = {"sft": save_tiny_model(tmp_path / "sft")}
    folders["rollouts"] = save_tiny_rollouts(tmp_path / "rollouts", folders["sft"])
    folders["pairs"] = tmp_path / "pairs"
    shape = read_shape(folders["sft"] / "model")
    rollouts = Rollouts(8, 6, bound_lengths(40, shape))
    values = {"rollouts": ["rollouts"], "reference": "sft"}
    of_pairs = estimate("pairs", values, rollouts=rollouts, sft=shape)

    def build_context(folder: Path) -> Context:
        return Context("stage", folder, folders, folder, 0, "cpu", "float32", 1, SILENT)

    paired = pairs.run(pairs.Config(**values), build_context(folders["pairs"]))
    (folders["pairs"] / "manifest.json").write_text(json.dumps({"facts": paired.facts}))
    values = {"pairs": ["pairs"], **changes}
    trained = dpo.run(dpo.Config(**values), build_context(tmp_path / "dpo"))

    assert covers(of_pairs, paired.ledger)
    assert covers(estimate("dpo", values, pairs=of_pairs.product, sft=shape), trained.ledger)
    assert trained.ledger.train_tokens > 0


# Amounts worked out by hand


def test_attempts_are_bounded_by_problems_samples_and_tokens() -> None:
    values = {"model": "sft", "solutions": ["problems"], "limit": 5, "samples": 4, "max_tokens": 10}
    one = estimate("rollout", values, sft=SHAPE, problems=Solutions(100))
    per_token = compute_forward_flops(matrix_parameters=1000, num_layers=2, width=16, context=32)
    assert one.sampled_tokens == 5 * 4 * 10
    assert one.flops == 5 * 4 * 64 * per_token
    assert one.product == Rollouts(5, 4, bound_lengths(10, SHAPE))


def test_rejection_sampling_bounds_what_is_trained_on() -> None:
    rolled = Rollouts(50, 8, bound_lengths(10, SHAPE))
    data = {"rollouts": ["rolled"], "select": {"per_problem": 2}}
    one = estimate("sft", {"model": "base", "data": data, "epochs": 3}, base=SHAPE, rolled=rolled)
    per_token = 3 * compute_forward_flops(matrix_parameters=1000, num_layers=2, width=8, context=65 / 2)
    assert one.train_tokens == 3 * 100 * 64
    assert one.flops == pytest.approx(one.train_tokens * per_token)


def test_pairs_are_no_longer_than_their_rules_allow() -> None:
    rolled = Rollouts(50, 8, bound_lengths(40, SHAPE))
    values = {"rollouts": ["rolled"], "reference": "sft", "rules": {"pairs_per_problem": 1, "max_length": 16}}
    product = estimate("pairs", values, rolled=rolled, sft=SHAPE).product
    assert product == Pairs(50, Lengths(15, 15, 16))
    assert estimate("dpo", {"pairs": ["pairs"]}, pairs=product, sft=SHAPE).train_tokens == 50 * (15 + 2 * 15)


def test_a_packed_document_sees_no_more_than_its_row() -> None:
    rolled = Rollouts(50, 8, bound_lengths(10, SHAPE))
    values = {"model": "base", "data": {"rollouts": ["rolled"]}, "row_length": 16}
    one = estimate("midtrain", values, base=SHAPE, rolled=rolled)
    per_token = 3 * compute_forward_flops(matrix_parameters=1000, num_layers=2, width=8, context=17 / 2)
    assert one.train_tokens == 50 * 8 * 64
    assert one.flops == pytest.approx(one.train_tokens * per_token)


def test_a_finite_task_is_counted_and_an_endless_one_needs_a_number(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": n, "split": "train"} for n in range(7)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"task": "own.jsonl"}, {"task": "quantities", "count": 5}]
    values = {"model": "sft", "sources": sources, "samples": 2, "max_tokens": 10}
    assert estimate("rollout", values, tmp_path, sft=SHAPE).sampled_tokens == (7 + 5) * 2 * 10


def test_rebalancing_keeps_no_more_than_one_wave_of_right_attempts_and_as_many_wrong_ones() -> None:
    values = {
        "model": "sft",
        "solutions": ["problems"],
        "rebalance": {"max_samples": 128},
        "iterations": 2,
        "prompts": 50,
        "samples": 3,
        "max_tokens": 8,
    }
    one = estimate("rl", values, sft=SHAPE)
    assert one.sampled_tokens == 2 * 50 * 3 * 128 * 8
    assert one.train_tokens == 2 * (50 * 63 + 50 * 6 * 8)


def test_an_attempt_that_grows_past_longropes_threshold_is_computed_once_more_up_to_there() -> None:
    sizes = {"num_layers": 1, "width": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "mlp_width": 8}
    shape = DecoderSizes(**sizes, vocab_size=10, context=100, long_rope_after=20).build_shape()
    assert shape.compute_attempt_flops(20) == 20 * shape.compute_attempt_flops(1)
    assert shape.compute_attempt_flops(30) == (30 + 20) * shape.compute_attempt_flops(1)


def test_what_nothing_is_known_of_is_unknown_but_a_trained_model_keeps_its_shape() -> None:
    data = {"rollouts": ["odd"]}
    one = estimate("sft", {"model": "base", "data": data}, base=SHAPE, odd=None)
    assert one == Estimate(UNKNOWN, UNKNOWN, UNKNOWN, SHAPE)
    assert estimate_stage("unheard-of", rl.Config, {}, Path()) == Estimate(UNKNOWN, UNKNOWN, UNKNOWN)


# Shapes


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_parameters_of_a_model_to_be_grown_are_those_of_the_model(
    architecture: Any, tie_embeddings: bool
) -> None:
    config = ModelConfig(architecture=architecture, tie_embeddings=tie_embeddings, num_layers=2, width=48)
    shape = plan_grown_shape(config, len(TOKENIZER))
    assert shape.matrix_parameters == count_matrix_parameters(build_model(config, TOKENIZER, seed=0))


@pytest.mark.parametrize("architecture", ["phi3", "qwen2"])
def test_a_directorys_shape_costs_what_the_engine_and_the_ledger_count(
    architecture: str, tmp_path: Path
) -> None:
    folder = save_foreign_model(tmp_path / "model", architecture)
    shape = read_shape(folder)
    assert shape.matrix_parameters == count_matrix_parameters(load_model(folder))
    assert shape.compute_attempt_flops(1) == load_engine(folder, device="cpu").flops_per_token
    assert shape.long_rope_after == (16 if architecture == "phi3" else None)


# The paper's recipe


def plan_paper(*assignments: str) -> list[PlannedStage]:
    return plan_runs(load_recipe(RECIPES / "phi4-mini-reasoning-paper.yaml", assignments), Path())


def test_the_papers_recipe_has_its_constants_and_every_cost_is_bounded(tmp_path: Path) -> None:
    stages = plan_paper()
    costs = dict(zip([one.name for one in stages], estimate_stages(stages, Path(), tmp_path), strict=True))
    shape = costs["rl"].product
    assert isinstance(shape, ModelShape)
    assert shape.matrix_parameters == 32 * 3072 * (2 * 32 * 128 + 3 * 8192) + 200_064 * 3072
    assert round(shape.matrix_parameters / 1e9, 1) == 3.8
    assert all(max(one.train_tokens, one.sampled_tokens, one.flops) < inf for one in costs.values())
    assert costs["teacher-rollouts"].sampled_tokens == 10e6 * (20 * 1024 - PROMPT_TOKENS)
    assert costs["midtrained"].train_tokens == 10e6 * 20 * 1024 * 5
    configs: dict[str, Any] = {stage.name: stage.config for stage in stages}
    assert configs["midtrained"].row_length == 16 * 1024
    assert configs["midtrained"].tokens_per_step == 128 * 16 * 1024
    assert [configs[name].train.optimizer.learning_rate for name in ("midtrained", "sft", "dpo", "rl")] == [
        1e-5,
        1e-5,
        5e-7,
        5e-7,
    ]
    assert configs["rl"].max_tokens + PROMPT_TOKENS == 25 * 1024


def test_the_papers_recipe_says_which_checkpoints_it_needs_before_it_runs(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "phi4-mini-reasoning-paper.yaml")
    with pytest.raises(ConfigError, match=r"--set stages\.base\.path=DIR.*--set stages\.teacher\.path=DIR"):
        run_recipe(recipe, Path(), tmp_path / "run", OPTIONS)
    assert not (tmp_path / "run").exists()


def test_the_papers_recipe_plans_with_checkpoints_of_phi_4_minis_kind(tmp_path: Path) -> None:
    folder = save_foreign_model(tmp_path / "model", "phi3")
    stages = plan_paper(f"base={folder}", f"stages.teacher.path={folder}")
    costs = dict(zip([one.name for one in stages], estimate_stages(stages, Path(), tmp_path), strict=True))
    assert find_missing(stages) == []
    assert {stage.config.format for stage in stages if stage.kind == "import_model"} == {"chat"}
    assert all(stage.external for stage in stages if stage.kind == "import_model")
    assert costs["rl"].product == read_shape(folder)
    assert costs["teacher-rollouts"].sampled_tokens == 10e6 * 2047


def test_a_checkpoint_is_expected_or_named() -> None:
    with pytest.raises(ConfigError, match="'path' is required"):
        plan_recipe(build_recipe({"name": "base", "use": "import_model"}), Path())


# What a dry run shows


def test_a_plan_is_a_table_whose_total_says_what_it_leaves_out() -> None:
    lines = [
        PlanLine("base", "pretrain", "to do", "base-1", (UNKNOWN, 0, UNKNOWN)),
        PlanLine("rolled\x1b[2J", "rollout", "finished", "rolled-2", (0, 1_500, 2.5e21)),
    ]
    header, base, rolled, total, note = render_plan(lines).split("\n")
    assert header.split()[:4] == ["stage", "kind", "state", "folder"]
    assert base.split() == ["base", "pretrain", "to", "do", "base-1", MISSING, "0", MISSING]
    assert rolled.split()[-3:] == ["0", "1.5k", "2.5Z"]
    assert total.split() == ["total", "0", "+", MISSING, "1.5k", "2.5Z", "+", MISSING]
    assert "\x1b" not in rolled
    assert note == NOTE
    assert len({len(line) for line in (header, base, rolled, total)}) == 1


def test_amounts_beyond_quintillions_have_names() -> None:
    assert [format_amount(value) for value in (4.74e22, 1.2e24)] == ["47.4Z", "1.2Y"]
