"""Whole preference losses on a model: the same as TRL's, and as written out with the stock model."""

import importlib.util
import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from ponderosa.data.pair_rows import (
    REFERENCE_LOGPROBS,
    ScoredPair,
    build_mismatched_rows,
    build_pair_row,
    build_scored_row,
    split_scores,
)
from ponderosa.errors import DataError
from ponderosa.records import Pair, Row
from ponderosa.training.gradients import GradientComputer
from ponderosa.training.kl_baseline import BaselinedBatches, Mismatched
from ponderosa.training.losses import CrossEntropy, Loss
from ponderosa.training.preference_losses import DPO, KTO
from tiny_training import TOKENIZER, build_tiny_model

BETA = 0.3


def draw_pairs(num_pairs: int, *, seed: int = 0, observed: bool = True) -> list[Pair]:
    """Pairs of random tokens; with `observed` a third of the tokens was not sampled, the last among them."""
    source = random.Random(seed)

    def draw_ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(source.randrange(280) for _ in range(source.randint(least, most)))

    def draw_weights(ids: tuple[int, ...]) -> tuple[float, ...]:
        if not observed:
            return (1.0,) * len(ids)
        return (1.0, *(float(source.random() < 0.67) for _ in ids[2:]), 0.0)

    pairs = []
    for number in range(num_pairs):
        prompt, chosen, rejected = draw_ids(2, 8), draw_ids(3, 12), draw_ids(3, 12)
        weights = draw_weights(chosen), draw_weights(rejected)
        pairs.append(Pair(f"p{number // 2}", prompt, chosen, rejected, *weights))
    return pairs


def score(model: PreTrainedModel, rows: Sequence[Row]) -> list[tuple[float, ...]]:
    computer = GradientComputer(model, CrossEntropy(), dtype=torch.float32)
    with computer.running():
        return computer.score(rows)


def score_pairs(reference: PreTrainedModel, pairs: Sequence[Pair]) -> list[ScoredPair]:
    scores = score(reference, [build_pair_row(pair) for pair in pairs])
    return [split_scores(pair, one) for pair, one in zip(pairs, scores, strict=True)]


def compute(
    model: PreTrainedModel, loss: Loss, rows: Sequence[Row], microbatch_tokens: int | None = None
) -> tuple[dict[str, float], list[Tensor]]:
    """The means of a step and the gradient of every parameter."""
    computer = GradientComputer(model, loss, dtype=torch.float32, microbatch_tokens=microbatch_tokens)
    with computer.running():
        means = computer.compute(rows, loss.compute_total(rows))
    return means, [parameter.grad.clone() for parameter in computer.parameters]


def sum_logprobs(model: PreTrainedModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the sampled tokens alone, summed, by the stock model: chosen [P] and rejected [P]."""

    def sum_one(prompt: tuple[int, ...], ids: tuple[int, ...], weights: tuple[float, ...]) -> Tensor:
        logits_TV = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        logprobs_T = functional.log_softmax(logits_TV, dim=-1)[torch.arange(len(ids)), list(ids)]
        return logprobs_T[[t for t, weight in enumerate(weights) if weight]].sum()

    chosen = [sum_one(pair.prompt_ids, pair.chosen_ids, pair.chosen_weights) for pair in pairs]
    rejected = [sum_one(pair.prompt_ids, pair.rejected_ids, pair.rejected_weights) for pair in pairs]
    return torch.stack(chosen), torch.stack(rejected)


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-5, rtol=1e-4)


# What counts


@pytest.mark.parametrize("microbatch_tokens", [None, 40])
def test_dpo_is_the_formula_on_sampled_tokens_alone_however_a_step_is_cut(
    microbatch_tokens: int | None,
) -> None:
    model, reference, pairs = build_tiny_model(), build_tiny_model(seed=1), draw_pairs(9)
    rows = [build_scored_row(one) for one in score_pairs(reference, pairs)]
    means, gradient = compute(model, DPO(BETA, sft_weight=0.2), rows, microbatch_tokens)

    chosen_P, rejected_P = sum_logprobs(model, pairs)
    with torch.no_grad():
        reference_chosen_P, reference_rejected_P = sum_logprobs(reference, pairs)
    margins_P = BETA * (chosen_P - reference_chosen_P - rejected_P + reference_rejected_P)
    lengths_P = torch.tensor([sum(pair.chosen_weights) for pair in pairs])
    expected = (-functional.logsigmoid(margins_P) - 0.2 * chosen_P / lengths_P).mean()

    assert means["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert_close(gradient, torch.autograd.grad(expected, [*model.parameters()]))
    assert means["margin"] == pytest.approx(margins_P.mean().item(), abs=1e-5)
    assert means["margin"] == pytest.approx(means["chosen_reward"] - means["rejected_reward"], abs=1e-5)
    assert means["accuracy"] == pytest.approx((margins_P > 0).float().mean().item())


def test_tokens_nobody_sampled_have_no_loss_of_their_own() -> None:
    """The last tokens of these pairs are interpreter output, which nothing follows."""
    model, pairs = build_tiny_model(), draw_pairs(4)
    rows = [build_scored_row(one) for one in score_pairs(build_tiny_model(seed=1), pairs)]
    _, expected = compute(model, DPO(BETA, sft_weight=1.0), rows)
    changed = [
        replace(
            row,
            token_ids=(*row.token_ids[:-1], (row.token_ids[-1] + 1) % 280),
            columns={
                REFERENCE_LOGPROBS: tuple(
                    value if weight else -99.0
                    for value, weight in zip(row.columns[REFERENCE_LOGPROBS], row.loss_weights, strict=True)
                )
            },
        )
        for row in rows
    ]
    _, gradient = compute(model, DPO(BETA, sft_weight=1.0), changed)
    assert all(torch.equal(a, b) for a, b in zip(gradient, expected, strict=True))


def test_a_policy_that_is_its_reference_has_the_loss_of_a_coin() -> None:
    model, pairs = build_tiny_model(), draw_pairs(5)
    rows = [build_scored_row(one) for one in score_pairs(model, pairs)]
    means, _ = compute(model, DPO(BETA), rows)
    assert means["loss"] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6)
    assert means["margin"] == pytest.approx(0.0, abs=1e-5)


# KTO


def build_kto_step(model: PreTrainedModel, reference: PreTrainedModel, pairs: Sequence[Pair]) -> Any:
    rows = [build_scored_row(one) for one in score_pairs(reference, pairs)]
    examples = build_mismatched_rows(pairs, max_length=64)
    mismatched = {
        row: Mismatched(example, sum(scores))
        for row, example, scores in zip(rows, examples, score(reference, examples), strict=True)
    }
    source = BaselinedBatches([tuple(rows)], mismatched, lambda step_rows: score(model, step_rows))
    return source, examples


@pytest.mark.parametrize("microbatch_tokens", [None, 40])
def test_kto_is_the_formula_with_one_baseline_for_a_whole_step(microbatch_tokens: int | None) -> None:
    model, reference, pairs = build_tiny_model(seed=3), build_tiny_model(seed=1), draw_pairs(8)
    source, examples = build_kto_step(model, reference, pairs)
    means, gradient = compute(model, KTO(BETA, 1.5, 0.5), source.draw(0), microbatch_tokens)

    log_ratios = [
        sum(ours) - sum(theirs)
        for ours, theirs in zip(score(model, examples), score(reference, examples), strict=True)
    ]
    baseline = max(0.0, sum(log_ratios) / len(log_ratios))
    chosen_P, rejected_P = sum_logprobs(model, pairs)
    with torch.no_grad():
        reference_chosen_P, reference_rejected_P = sum_logprobs(reference, pairs)
    desirable_P = 1.5 * (1 - torch.sigmoid(BETA * (chosen_P - reference_chosen_P - baseline)))
    undesirable_P = 0.5 * (1 - torch.sigmoid(BETA * (baseline - rejected_P + reference_rejected_P)))
    expected = torch.cat([desirable_P, undesirable_P]).mean()

    assert source.describe(0) == {"kl_baseline": pytest.approx(baseline, abs=1e-4)}
    assert means["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert_close(gradient, torch.autograd.grad(expected, [*model.parameters()]))


def test_mismatched_examples_are_other_problems_continuations_by_turns() -> None:
    pairs = draw_pairs(5)
    rows = build_mismatched_rows(pairs, max_length=10)
    others = [2, 2, 4, 4, 0]
    for number, (pair, row, other) in enumerate(zip(pairs, rows, others, strict=True)):
        ids = pairs[other].rejected_ids if number % 2 else pairs[other].chosen_ids
        assert row.token_ids == (pair.prompt_ids + ids)[:10]
        assert set(row.loss_weights[: len(pair.prompt_ids)]) == {0.0}
    with pytest.raises(DataError, match="all pairs are of one problem"):
        build_mismatched_rows(pairs[:2], max_length=10)


# TRL


@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install 'ponderosa[bench]'"
)
@pytest.mark.parametrize("observed", [False, True])
def test_dpo_equals_dpo_trainers_on_the_same_batch(tmp_path: Path, observed: bool) -> None:
    pairs = draw_pairs(6, observed=observed)
    rows = [build_scored_row(one) for one in score_pairs(build_tiny_model(seed=1), pairs)]
    means, _ = compute(build_tiny_model(), DPO(BETA), rows)
    expected = compute_trl_loss(pairs, tmp_path)
    assert means["loss"] == pytest.approx(expected, abs=1e-5)


def compute_trl_loss(pairs: Sequence[Pair], folder: Path) -> float:
    """The loss of one batch as DPOTrainer computes it in training, interpreter output taken out of its mask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        config = DPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=len(pairs),
            max_length=None,
            beta=BETA,
            report_to=[],
            disable_tqdm=True,
        )
        examples = [
            {
                "prompt_ids": list(pair.prompt_ids),
                "chosen_ids": list(pair.chosen_ids),
                "rejected_ids": list(pair.rejected_ids),
            }
            for pair in pairs
        ]
        model = build_tiny_model()
        trainer = DPOTrainer(
            model=model,
            ref_model=build_tiny_model(seed=1),
            args=config,
            # It insists on making a data set of its own; the batch below is what counts.
            train_dataset=Dataset.from_list([{"prompt": "Ann", "chosen": " has", "rejected": " had"}]),
            processing_class=TOKENIZER,
        )
        batch = trainer.data_collator(examples)
        weights = [p.chosen_weights for p in pairs] + [p.rejected_weights for p in pairs]
        for mask_T, prompt, sampled in zip(
            batch["completion_mask"], [p.prompt_ids for p in pairs] * 2, weights, strict=True
        ):
            mask_T[len(prompt) : len(prompt) + len(sampled)] = torch.tensor(sampled).long()
        with torch.no_grad():
            return float(trainer.compute_loss(model, batch))
