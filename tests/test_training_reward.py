"""Reward losses against float64 and stock transformers, and models that become reward models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from ponderosa.data.packing import build_batches
from ponderosa.data.reward_rows import (
    IS_CHOSEN,
    TARGET,
    NodeRow,
    build_comparison_row,
    build_node_rows,
    list_readings,
)
from ponderosa.data.step_pairs import Comparison
from ponderosa.errors import DataError
from ponderosa.formats import PLAIN_CODE
from ponderosa.ledger import count_matrix_parameters
from ponderosa.model_directory import save_model
from ponderosa.records import Row
from ponderosa.training.gradients import GradientComputer
from ponderosa.training.loop import FixedBatches, TrainConfig, train
from ponderosa.training.losses import CrossEntropy, Loss
from ponderosa.training.optim import OptimizerConfig, select_hidden_matrices
from ponderosa.training.output_head import HEAD_DEVIATION, build_reward_model
from ponderosa.training.reward_losses import (
    OutcomeReward,
    PairwiseReward,
    ValueReward,
    compute_outcome_loss,
    compute_pairwise_loss,
    compute_value_loss,
)
from tiny_training import TOKENIZER, build_tiny_model
from tiny_trees import Line, build_tree, spell

BETA = 1.5


def draw_scores(count: int, seed: int) -> Tensor:
    return 4 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


# The formulas


@pytest.mark.parametrize("form", ["tanh", "logits"])
def test_the_pairwise_loss_is_its_formula_in_float64(form: Any) -> None:
    chosen_P, rejected_P = draw_scores(50, 0), draw_scores(50, 1)
    ours_P = compute_pairwise_loss(chosen_P, rejected_P, form=form, beta=BETA)
    a, b = chosen_P.double().numpy(), rejected_P.double().numpy()
    margins = BETA * (np.tanh(a) - np.tanh(b) if form == "tanh" else a - b)
    assert ours_P.numpy() == pytest.approx(np.logaddexp(0, -margins), rel=1e-5)


def test_the_pairwise_loss_is_log_2_at_equal_scores_and_bounded_by_its_beta() -> None:
    far, none = torch.tensor([50.0]), torch.tensor([0.0])
    assert compute_pairwise_loss(far, far, form="logits", beta=BETA).item() == pytest.approx(math.log(2))
    least = compute_pairwise_loss(far, -far, form="tanh", beta=BETA).item()
    assert least == pytest.approx(math.log1p(math.exp(-2 * BETA)))
    assert compute_pairwise_loss(none, far, form="logits", beta=1e6).isfinite().all()


def test_the_outcome_and_the_value_loss_are_their_formulas_in_float64() -> None:
    scores_N, values_N = draw_scores(50, 0), draw_scores(50, 1).tanh()
    s, v, right = scores_N.double().numpy(), values_N.double().numpy(), values_N.numpy() > 0
    outcome_N = compute_outcome_loss(scores_N, values_N > 0).numpy()
    assert outcome_N == pytest.approx(np.logaddexp(0, np.where(right, -s, s)), abs=1e-6)
    assert compute_value_loss(scores_N, values_N).numpy() == pytest.approx((np.tanh(s) - v) ** 2, abs=1e-5)


# The model


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_model_is_the_policys_decoder_under_a_head_that_says_next_to_nothing(
    architecture: str, tied: bool, tmp_path: Path
) -> None:
    policy = build_tiny_model(architecture=architecture, tie_embeddings=tied)
    model = build_reward_model(policy, pad_token_id=TOKENIZER.pad_token_id, seed=0)
    save_model(tmp_path / "model", model, TOKENIZER, PLAIN_CODE)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    ids = torch.tensor([spell("What is it?")])
    with torch.no_grad():
        hidden = policy.get_decoder()(ids).last_hidden_state[0, -1]
        expected = model.score.weight @ hidden
        assert stock(ids).logits[0] == pytest.approx(expected, abs=1e-6)
    assert 0 < expected.abs() < 20 * HEAD_DEVIATION
    assert type(stock).__name__ == type(policy).__name__.replace("CausalLM", "SequenceClassification")
    again = build_reward_model(policy, pad_token_id=TOKENIZER.pad_token_id, seed=0)
    assert torch.equal(again.score.weight, model.score.weight)


def test_the_policy_is_left_as_it_was() -> None:
    policy = build_tiny_model()
    model = build_reward_model(policy, pad_token_id=3, seed=0)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    assert policy.get_input_embeddings().weight.abs().sum() > 0
    assert policy.config.num_labels != 1
    assert policy.config.pad_token_id == TOKENIZER.pad_token_id


def test_the_score_head_is_no_hidden_matrix_and_its_flops_are_counted() -> None:
    policy = build_tiny_model()
    model = build_reward_model(policy, pad_token_id=None, seed=0)
    hidden = select_hidden_matrices(model)
    assert set(hidden) == set(select_hidden_matrices(policy))
    assert count_matrix_parameters(model) == sum(p.numel() for p in hidden.values()) + model.score.in_features


def test_an_architecture_without_a_classifier_is_refused_by_name() -> None:
    class OwnConfig(Qwen3Config):
        model_type = "own"

    policy = Qwen3ForCausalLM(OwnConfig.from_dict(build_tiny_model().config.to_dict()))
    with pytest.raises(DataError, match="Qwen3ForCausalLM cannot become a reward model"):
        build_reward_model(policy, pad_token_id=0, seed=0)


# Losses on a model


@pytest.fixture
def model() -> PreTrainedModel:
    """A reward model whose scores differ."""
    model = build_reward_model(build_tiny_model(), pad_token_id=TOKENIZER.pad_token_id, seed=0)
    with torch.no_grad():
        model.score.weight.mul_(300)
    return model


COMPARISONS = [
    Comparison("p", "step", spell("Q:1"), (spell("good!"), spell("fine")), (spell("bad"), spell("awful!"))),
    Comparison("p", "step", spell("Q:what"), (spell("so"),), (spell("no"), spell("nay"), spell("never"))),
    Comparison("q", "solution", spell("Q"), (spell("yes, it is"),), (spell("no"),)),
]
TREE = build_tree(
    [
        Line(None, "one", 0.3),
        Line(0, "two", 0.9, "correct"),
        Line(0, "three", -0.5),
        Line(2, "four", -1.0, "wrong_answer"),
        Line(None, "five", -0.8, "wrong_answer"),
    ]
)


def compute(
    model: PreTrainedModel, loss: Loss, rows: list[Row], microbatch_tokens: int | None = None
) -> tuple[dict[str, float], list[Tensor]]:
    computer = GradientComputer(model, loss, dtype=torch.float32, microbatch_tokens=microbatch_tokens)
    with computer.running():
        means = computer.compute(rows, loss.compute_total(rows))
    return means, [parameter.grad.clone() for parameter in computer.parameters]


def score(model: PreTrainedModel, rows: list[Row]) -> list[float]:
    computer = GradientComputer(model, CrossEntropy(), dtype=torch.float32)
    with computer.running():
        scores = computer.score(rows)
    return [one for row, values in zip(rows, scores, strict=True) for one in list_readings(row, values)]


def score_stock(model: PreTrainedModel, ids: tuple[int, ...]) -> Tensor:
    """As transformers reads a whole sequence."""
    logits: Tensor = model(torch.tensor([ids])).logits
    return logits[0, 0]


def assert_close(ours: list[Tensor], theirs: tuple[Tensor, ...]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("microbatch_tokens", [None, 20])
def test_the_pairwise_loss_is_the_mean_over_all_pairs_of_whole_sequences_in_the_stock_model(
    model: PreTrainedModel, microbatch_tokens: int | None
) -> None:
    rows = [build_comparison_row(one) for one in COMPARISONS]
    means, gradient = compute(model, PairwiseReward("tanh", BETA), rows, microbatch_tokens)
    pairs = [
        [score_stock(model, one.prefix_ids + ids) for ids in (chosen, rejected)]
        for one in COMPARISONS
        for chosen in one.chosen
        for rejected in one.rejected
    ]
    chosen_P, rejected_P = (torch.stack(side) for side in zip(*pairs, strict=True))
    expected = -functional.logsigmoid(BETA * (chosen_P.tanh() - rejected_P.tanh())).mean()
    assert len(pairs) == 4 + 3 + 1
    assert means["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert means["accuracy"] == pytest.approx((chosen_P > rejected_P).float().mean().item())
    assert means["margin"] == pytest.approx((chosen_P - rejected_P).mean().item(), abs=1e-4)
    assert_close(gradient, torch.autograd.grad(expected, [*model.parameters()]))


@pytest.mark.parametrize(
    ("loss", "targets", "compute_loss"),
    [
        (
            ValueReward(),
            {place: node.value for place, node in enumerate(TREE.tree.nodes)},
            compute_value_loss,
        ),
        (OutcomeReward(), {1: 1.0, 3: 0.0, 4: 0.0}, compute_outcome_loss),
    ],
)
def test_the_controls_are_the_mean_over_nodes_read_one_by_one_in_the_stock_model(
    model: PreTrainedModel, loss: Loss, targets: dict[int, float], compute_loss: Any
) -> None:
    rows = [one.row for one in build_node_rows(TREE.tree, targets, max_length=64)]
    means, gradient = compute(model, loss, rows)
    scores_N = torch.stack([score_stock(model, TREE.tree.join_tokens(place)) for place in targets])
    expected = compute_loss(scores_N, torch.tensor([*targets.values()])).mean()
    assert means["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert_close(gradient, torch.autograd.grad(expected, [*model.parameters()]))


def test_scores_of_nodes_are_those_of_the_sequences_that_end_there(model: PreTrainedModel) -> None:
    rows: list[NodeRow] = build_node_rows(TREE.tree, dict.fromkeys(range(5), 0.0), max_length=64)
    places = [place for row in rows for place in row.places]
    with torch.no_grad():
        expected = [score_stock(model, TREE.tree.join_tokens(place)).item() for place in places]
    assert sorted(places) == [0, 1, 2, 3, 4]
    assert score(model, [one.row for one in rows]) == pytest.approx(expected, abs=1e-5)


# Learning


def plant_rule(kind: str) -> tuple[Loss, list[Row]]:
    """Continuations with a 7 in them are the better ones."""
    rng = np.random.default_rng(0)

    def write(*, is_good: bool) -> tuple[int, ...]:
        digits = [str(digit) for digit in rng.choice([0, 1, 2, 3, 4, 5, 6, 8, 9], 4)]
        digits[rng.integers(4)] = "7" if is_good else "1"
        return spell("".join(digits) + "!")

    if kind == "ppm":
        comparisons = [
            Comparison(
                f"p{n}",
                "step",
                spell(f"Q{n % 10}:"),
                *((write(is_good=one), write(is_good=one)) for one in (True, False)),
            )
            for n in range(48)
        ]
        return PairwiseReward("tanh", 4.0), [build_comparison_row(one) for one in comparisons]
    column, (low, high) = TARGET, {"orm": (0.0, 1.0), "q_regression": (-0.8, 0.8)}[kind]
    rows = []
    for number in range(150):
        ids = write(is_good=number % 2 == 0)
        values = (0.0,) * (len(ids) - 1) + (high if number % 2 == 0 else low,)
        weights = (*(0.0,) * (len(ids) - 1), 1.0)
        rows.append(Row(ids, weights, (0,) * len(ids), columns={column: values}))
    return OutcomeReward() if kind == "orm" else ValueReward(), rows


@pytest.mark.parametrize("kind", ["ppm", "orm", "q_regression"])
def test_a_planted_rule_is_learned_and_holds_on_what_was_not_seen(kind: str, tmp_path: Path) -> None:
    loss, rows = plant_rule(kind)
    model = build_reward_model(build_tiny_model(), pad_token_id=TOKENIZER.pad_token_id, seed=0)
    seen, unseen = rows[: -len(rows) // 4], rows[-len(rows) // 4 :]
    batches = build_batches(seen, tokens_per_step=160, seed=0, epochs=5)
    config = TrainConfig(optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2), dtype="float32")
    train(model, FixedBatches(batches), config, loss=loss, folder=tmp_path, seed=0)
    targets = [
        target
        for row in unseen
        for target in list_readings(row, row.columns[IS_CHOSEN if kind == "ppm" else TARGET])
    ]
    scores = np.array(score(model, unseen))
    is_good = np.array(targets) > 0
    assert np.mean(scores[is_good][:, None] > scores[~is_good]) > 0.95
