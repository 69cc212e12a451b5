"""Reinforcement learning: what is sampled, what is trained on it, and that a killed run goes on as if it had not been."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ponderosa.artifacts import Journal
from ponderosa.config import parse_config
from ponderosa.data.groups import Group, build_group_rows, compute_length_spread, rebalance_group
from ponderosa.data.packing import Batch
from ponderosa.data.prompts import PromptRules, select_prompts
from ponderosa.data.rollouts import ProblemRollouts
from ponderosa.engines.codec import HFCodec
from ponderosa.engines.native import NativeEngine
from ponderosa.errors import ConfigError
from ponderosa.formats import load_format
from ponderosa.model_directory import load_model, load_tokenizer
from ponderosa.pipeline import RunOptions, run_recipe
from ponderosa.records import Attempt, Cost, GradedAttempt, Problem, Verdict
from ponderosa.rewards.recipe import Component, RewardSum
from ponderosa.rewards.reward import RewardContext
from ponderosa.search.driver import build_context
from ponderosa.search.solution import Limits
from ponderosa.stages import rl
from ponderosa.stages.labelling import Labelling, open_labelling
from ponderosa.stages.policy_rollouts import Environment, PolicyRollouts
from ponderosa.stages.scoring import build_scorer
from ponderosa.stages.stage import Context
from ponderosa.stages.training_stage import Learner
from search_fakes import FakeExecution
from tiny_runs import FAMILY, GROWN, OPTIONS, build_recipe, find_stage

REWARD = """
def early_letters(attempt, verdict, context):
    "The share of characters in the first half of the alphabet: something a few updates can raise."
    return sum("a" <= character < "n" for character in attempt.text.lower()) / max(1, len(attempt.text))

def right(attempt, verdict, context):
    return float(verdict.correct)
"""
RL: dict[str, Any] = {
    "name": "rl",
    "use": "rl",
    "model": "base",
    "sources": [{"task": "quantities", "count": 6, "options": FAMILY}],
    "rewards": [{"use": "rewards.py:early_letters"}],
    "iterations": 3,
    "prompts": 2,
    "samples": 4,
    "max_tokens": 10,
    "num_slots": 8,
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rl")
    (folder / "rewards.py").write_text(REWARD)
    return run_stages(folder / "run", {})


def run_stages(out: Path, changes: dict[str, Any], options: RunOptions = OPTIONS) -> Path:
    run_recipe(build_recipe(*GROWN, {**RL, **changes}), out.parent, out, options)
    return out


def run_rl(grown: Path, name: str, **changes: Any) -> list[dict[str, Any]]:
    """The metrics of a run that differs in these values; all share the stages before it."""
    run_stages(grown, {**changes, "name": name})
    return read_metrics(find_stage(grown, name))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def drop_speed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "tokens_per_s"} for entry in entries]


def still(**values: Any) -> dict[str, Any]:
    """A training configuration that moves nothing."""
    frozen = {"optimizer": {"muon_learning_rate": 0.0, "learning_rate": 0.0}, "dtype": "float32"}
    return {**frozen, **values}


class Answering:
    """A sandbox in which every step prints 7."""

    def execute_many(self, requests: Sequence[tuple[Sequence[str], str]]) -> list[FakeExecution]:
        return [FakeExecution("ok", "7\n", None) for _ in requests]


@contextmanager
def open_source(grown: Path, folder: Path, **changes: Any) -> Iterator[tuple[Learner, PolicyRollouts]]:
    """The base model and what is drawn from it, where steps show something and no answer is right."""
    model_dir = find_stage(grown, "base") / "model"
    tokenizer = load_tokenizer(model_dir)
    learner = Learner(
        load_model(model_dir, device="cpu"), tokenizer, load_format(model_dir), HFCodec(tokenizer)
    )
    config = parse_config(rl.Config, {"sources": RL["sources"], **changes}, where="rl")
    engine = NativeEngine(learner.model, learner.codec, model_id="policy", num_slots=32, max_context=512)
    letters = Component("letters", 1.0, lambda attempt, verdict, context: float(len(attempt.text)))
    with Journal(folder / "journal.jsonl") as journal:
        environment = Environment(
            engine=engine,
            sandbox=Answering(),
            judge=lambda asked: [Verdict(False, "wrong_answer", "none@1")] * len(asked),
            context=build_context(engine, learner.prompt_format, limits=Limits(max_tokens=config.max_tokens)),
            rewards=RewardSum((letters,), RewardContext(config.max_tokens, learner.prompt_format)),
            num_threads=1,
        )
        problems = [Problem("What is 2 + 3?", "5", id="a"), Problem("What is 2 + 4?", "6", id="b")]
        yield learner, rl.build_source(config, learner, problems, environment, journal, seed=0)


@pytest.mark.parametrize("share_prompts", [True, False])
def test_engine_and_trainer_agree_on_every_probability_while_nothing_moves(
    grown: Path, tmp_path: Path, share_prompts: bool
) -> None:
    """Of every single token, also behind what the interpreter showed."""
    with open_source(grown, tmp_path, prompts=2, samples=16, max_tokens=40, share_prompts=share_prompts) as (
        learner,
        source,
    ):
        rows = source.draw(0)
        graded = source.list_graded()
    went_on = [
        attempt
        for attempt in (item.attempt for item in graded)
        if (False, True) in zip(attempt.sampled, attempt.sampled[1:], strict=False)
    ]
    assert went_on
    assert all("7" in attempt.text for attempt in went_on)
    scorer = build_scorer(learner.model, "float32", None)
    with scorer.running():
        scores = scorer.score(rows)
    gaps = [
        abs(trained - sampled)
        for row, row_scores in zip(rows, scores, strict=True)
        for weight, trained, sampled in zip(
            row.loss_weights, row_scores, row.columns["sampling_logprobs"], strict=True
        )
        if weight
    ]
    assert len(gaps) == sum(item.attempt.num_sampled for item in graded)
    assert max(gaps) < 1e-4


def test_a_policy_that_does_not_move_stays_what_it_was_sampled_from(grown: Path) -> None:
    entries = run_rl(grown, "still", train=still())
    assert all(entry["engine_gap"] < 1e-4 for entry in entries)
    assert all(entry["ratio"] == pytest.approx(1.0, abs=1e-4) for entry in entries)


def test_old_probabilities_are_computed_in_the_dtype_the_command_line_trains_in(grown: Path) -> None:
    changes = {"name": "half", "old_logprobs": "trainer", "train": still(), "iterations": 1}
    run_stages(grown, changes, replace(OPTIONS, dtype="bfloat16"))
    (entry,) = read_metrics(find_stage(grown, "half"))
    assert entry["engine_gap"] > 1e-4
    assert entry["kl_old_k3"] == pytest.approx(0.0, abs=1e-9)


def test_a_shared_prompt_changes_neither_loss_nor_weights(grown: Path) -> None:
    metrics, weights = [], []
    for share_prompts in (True, False):
        name = f"shared-{share_prompts}"
        metrics.append(run_rl(grown, name, share_prompts=share_prompts, train={"dtype": "float32"}))
        weights.append(load_file(find_stage(grown, name) / "model" / "model.safetensors"))
    assert metrics[0][0]["grad_norm"] == pytest.approx(metrics[1][0]["grad_norm"], rel=1e-4)
    assert metrics[0][0]["step_tokens"] < metrics[1][0]["step_tokens"]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-4, rtol=1e-3)


def test_the_reward_rises(grown: Path) -> None:
    fast = {"optimizer": {"name": "adamw", "learning_rate": 0.03}, "dtype": "float32"}
    entries = run_rl(grown, "learning", iterations=10, prompts=4, samples=16, num_slots=64, train=fast)
    rewards = [entry["rewards"]["rewards.py:early_letters"] for entry in entries]
    assert rewards[-1] > rewards[0] + 0.2, rewards
    assert [entry["tokens"] for entry in entries] == [*accumulate(entry["step_tokens"] for entry in entries)]


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize(
    ("old_logprobs", "killed_at"),
    [("engine", 1), ("engine", 3), ("engine", 4), ("trainer", 1), ("trainer", 4)],
)
def test_a_killed_run_goes_on_to_the_uninterrupted_curve(
    grown: Path, monkeypatch: pytest.MonkeyPatch, old_logprobs: str, killed_at: int
) -> None:
    """Killed between the two updates of an iteration, or between drawing and updating."""
    changes: dict[str, Any] = {
        "updates": 2,
        "old_logprobs": old_logprobs,
        "policy_gradient": {"kl_weight": 0.1 if old_logprobs == "trainer" else 0.0},
        "train": {"dtype": "float32"},
        "rewards": [{"use": "correctness"}, RL["rewards"][0]],
    }
    whole, cut = f"whole-{old_logprobs}", f"cut-{old_logprobs}-{killed_at}"
    expected = run_rl(grown, whole, **changes)
    assert ["engine_gap" in entry for entry in expected] == [True, False] * 3
    draw = PolicyRollouts.draw

    def draw_or_die(self: PolicyRollouts, step: int) -> Any:
        batch = draw(self, step)
        if step == killed_at:
            raise Killed
        return batch

    always = {**changes["train"], "checkpoint_every_s": 0.0}
    monkeypatch.setattr(PolicyRollouts, "draw", draw_or_die)
    with pytest.raises(Killed):
        run_rl(grown, cut, **{**changes, "train": always})
    monkeypatch.setattr(PolicyRollouts, "draw", draw)
    entries = run_rl(grown, cut, **{**changes, "train": always})
    assert drop_speed(entries) == drop_speed(expected)
    weights = [find_stage(grown, name) / "model" / "model.safetensors" for name in (whole, cut)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_rebalancing_asks_hard_prompts_again_and_compares_within_what_it_keeps(
    grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts: never solved, always solved, and solved by the sixth attempt alone."""
    ranks: dict[str, int] = {}
    batches: list[Batch] = []
    draw = PolicyRollouts.draw

    def judge(asked: Sequence[tuple[Problem, Attempt]]) -> list[Verdict]:
        for problem, _ in asked:
            ranks.setdefault(problem.id, len(ranks))
        right = [(False, True, attempt.sample == 5)[ranks[problem.id]] for problem, attempt in asked]
        return [Verdict(one, "correct" if one else "wrong_answer", "test@1") for one in right]

    @contextmanager
    def open_with_judge(context: Context) -> Iterator[Labelling]:
        with open_labelling(context) as labelling:
            yield labelling._replace(judge=judge)

    def draw_and_note(self: PolicyRollouts, step: int) -> Batch:
        batches.append(draw(self, step))
        return batches[-1]

    monkeypatch.setattr(rl, "open_labelling", open_with_judge)
    monkeypatch.setattr(PolicyRollouts, "draw", draw_and_note)
    (entry,) = run_rl(
        grown,
        "rebalanced",
        rewards=[{"use": "rewards.py:right"}],
        sources=[{**RL["sources"][0], "count": 3}],
        rebalance={"max_accuracy": 0.5, "max_samples": 12},
        iterations=1,
        prompts=3,
        max_waves=1,
        share_prompts=False,
    )
    assert entry["attempts"] == 12 + 4 + 8
    assert (entry["asked_groups"], entry["kept_groups"]) == (3, 1)
    assert entry["baseline"] == pytest.approx((4 + 1) / 24)
    assert (entry["full_baseline"], entry["rebalanced_baseline"]) == (1 / 8, 1 / 2)
    advantages = sorted(row.columns["advantages"][-1] for row in batches[0])
    assert advantages == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-3)


def test_flat_groups_are_replaced_and_the_accuracy_is_of_all_that_was_asked(grown: Path) -> None:
    (entry, *_) = run_rl(grown, "flat", rewards=[{"use": "correctness"}], max_waves=2, iterations=1)
    assert entry["flat_frac"] == 1.0
    assert entry["accuracy"] == 0.0
    assert entry["asked_groups"] == 2 * RL["prompts"]
    assert entry["kept_groups"] == 0
    assert entry["grad_norm"] == 0.0


def test_every_attempt_is_kept_with_its_verdict(grown: Path) -> None:
    from ponderosa.stages.attempt_tables import load_graded

    folder = find_stage(grown, "rl")
    graded = load_graded(folder / "attempts.parquet", folder / "verdicts.parquet")
    assert len(graded) == sum(entry["attempts"] for entry in read_metrics(folder))


def test_recomputed_probabilities_and_a_reference_join_the_loss(grown: Path) -> None:
    entries = run_rl(
        grown,
        "columns",
        old_logprobs="trainer",
        policy_gradient={"kl_weight": 0.1, "importance_cap": 2.0},
        train={"dtype": "float32"},
    )
    assert entries[0]["kl_reference"] == pytest.approx(0.0, abs=1e-6)
    assert entries[-1]["kl_reference"] > 0
    assert all(entry["importance"] == pytest.approx(1.0, abs=1e-3) for entry in entries)


def test_the_temperature_falls_and_then_stays() -> None:
    assert rl.anneal(rl.Annealing(), 8) == pytest.approx((1.0, 0.9, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6))
    assert rl.anneal(rl.Annealing(start=0.8, end=0.8), 2) == (0.8, 0.8)
    assert rl.anneal(rl.Annealing(anneal_frac=0.0), 2) == (0.6, 0.6)


def test_a_correction_without_its_probabilities_is_refused() -> None:
    with pytest.raises(ConfigError, match="old_logprobs: trainer"):
        parse_config(
            rl.Config, {"sources": RL["sources"], "policy_gradient": {"importance_cap": 2.0}}, where="rl"
        )


# Groups


def build_graded(sample: int, correct: bool, length: int = 3) -> GradedAttempt:
    ids = tuple(range(10, 10 + length))
    sampled = tuple(i != 1 for i in range(length))
    logprobs = tuple(-0.5 * one for one in sampled)
    attempt = Attempt(
        "p",
        sample,
        (1, 2),
        ids,
        sampled,
        logprobs,
        logprobs,
        "stop",
        "",
        (),
        "1",
        "1",
        Cost(),
        "sample",
        "m",
        0,
    )
    return GradedAttempt(attempt, Verdict(correct, "correct" if correct else "wrong_answer", "test@1"))


def build_group(*correct: bool) -> Group:
    graded = tuple(build_graded(i, one) for i, one in enumerate(correct))
    return Group(graded, tuple(float(one) for one in correct))


def test_rebalancing_keeps_every_right_attempt_and_as_many_wrong_ones() -> None:
    group = build_group(True, False, False, True, False, False)
    balanced = rebalance_group(group, max_accuracy=0.5, seed=0)
    assert balanced is not None
    assert sorted(balanced.rewards) == [0.0, 0.0, 1.0, 1.0]
    assert {item.attempt.sample for item in balanced.graded} >= {0, 3}


@pytest.mark.parametrize("correct", [(True, True), (False, False), (True, True, False)])
def test_rebalancing_drops_groups_of_one_kind_and_easy_ones(correct: tuple[bool, ...]) -> None:
    assert rebalance_group(build_group(*correct), max_accuracy=0.5, seed=0) is None


def iterate_tokens(rows: Any) -> Iterator[tuple[float, float]]:
    for row in rows:
        yield from zip(row.loss_weights, row.columns["advantages"], strict=True)


@pytest.mark.parametrize("shares_prompt", [True, False])
def test_only_what_the_policy_wrote_is_weighted(shares_prompt: bool) -> None:
    rows = build_group_rows(
        build_group(True, False), [1.0, -1.0], [0.5, 0.25], 0.9, shares_prompt=shares_prompt
    )
    assert len(rows) == (1 if shares_prompt else 2)
    weighted = [(weight, advantage) for weight, advantage in iterate_tokens(rows) if weight]
    assert weighted == [(0.5, 1.0)] * 2 + [(0.25, -1.0)] * 2
    assert rows[0].token_ids[:5] == (1, 2, 10, 11, 12)
    assert rows[0].is_tree is shares_prompt


def test_equal_lengths_have_no_spread() -> None:
    assert compute_length_spread([build_graded(i, True).attempt for i in range(3)]) == 0.0
    lengths = [build_graded(i, True, length).attempt for i, length in enumerate((3, 5))]
    assert compute_length_spread(lengths) == pytest.approx(1 / 3)


def build_rollouts(name: str, correct: Sequence[bool], lengths: Sequence[int]) -> ProblemRollouts:
    graded = tuple(
        build_graded(i, one, length) for i, (one, length) in enumerate(zip(correct, lengths, strict=True))
    )
    return ProblemRollouts(Problem(name, "1", id=name), graded)


def test_prompts_are_kept_by_how_often_and_how_evenly_they_were_solved() -> None:
    rollouts = [
        build_rollouts("even", (True, False), (4, 5)),
        build_rollouts("uneven", (True, False), (3, 30)),
        build_rollouts("easy", (True, True), (4, 4)),
        build_rollouts("hard", (False, False), (4, 4)),
    ]
    rules = PromptRules(rollouts="rollouts", min_solve_rate=0.1, max_solve_rate=0.9, max_length_spread=0.5)
    kept, dropped = select_prompts(rollouts, rules)
    assert [problem.id for problem in kept] == ["even"]
    assert dropped == {"uneven_lengths": 1, "too_easy": 1, "too_hard": 1}
