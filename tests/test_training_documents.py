"""Streams of documents: isolation, fused arithmetic, and invariance to how a step is cut up."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ponderosa.data.packing import pack_rows, split_documents
from ponderosa.data.rows import build_row
from ponderosa.records import Row
from ponderosa.training.attention import (
    LENGTH_BUCKET,
    MAX_PADDING_FRAC,
    Span,
    build_layout,
    document_attention,
)
from ponderosa.training.batching import TOKEN_BUCKET, build_microbatch, build_microbatches, list_documents
from ponderosa.training.fused import fused_layers
from ponderosa.training.gradients import GradientComputer
from ponderosa.training.losses import CrossEntropy
from tiny_training import build_tiny_model, draw_documents


@pytest.fixture(params=["qwen3", "llama"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A model whose norm weights are not all one."""
    model = build_tiny_model(architecture=request.param)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model


def sort_longest_first(documents: Sequence[Row]) -> list[Row]:
    return sorted(documents, key=lambda document: -len(document.token_ids))


def compute_gradient(
    model: PreTrainedModel,
    rows: Sequence[Row],
    microbatch_tokens: int = 10_000,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, Tensor]:
    loss = CrossEntropy()
    computer = GradientComputer(model, loss, dtype=dtype, microbatch_tokens=microbatch_tokens)
    with computer.running():
        means = computer.compute(rows, loss.compute_total(rows))
    return means["loss"], torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def compute_stock_gradient(model: PreTrainedModel, rows: Sequence[Row]) -> tuple[float, Tensor]:
    """One document at a time through the unchanged model, mean over every weighted token."""
    model.zero_grad()
    total_weight = sum(sum(row.loss_weights) for row in rows)
    loss = torch.zeros(())
    for document in iterate_documents(rows):
        token_ids = torch.tensor([document.token_ids])
        logprobs_TV = model(token_ids).logits[0, :-1].log_softmax(-1)
        nll_T = -logprobs_TV.gather(1, token_ids[0, 1:, None])[:, 0]
        loss = loss + (nll_T * torch.tensor(document.loss_weights[1:])).sum() / total_weight
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return loss.item(), gradient


def iterate_documents(rows: Sequence[Row]) -> Iterator[Row]:
    return (document for row in rows for document in split_documents(row))


def test_documents_in_one_stream_have_the_logits_they_have_alone(model: PreTrainedModel) -> None:
    documents = sort_longest_first(draw_documents(9))
    spread = [document for number, row in enumerate(documents) for document in list_documents(row, number)]
    microbatch = build_microbatch(documents, spread, torch.device("cpu"))
    with torch.no_grad(), document_attention(model), fused_layers(model):
        stream_NV = model(
            input_ids=microbatch.token_ids_1N,
            position_ids=microbatch.positions_1N,
            use_cache=False,
            documents=microbatch.layout,
        ).logits[0]
    with torch.no_grad():
        alone_NV = torch.cat([model(torch.tensor([document.token_ids])).logits[0] for document in documents])
    torch.testing.assert_close(stream_NV[: len(alone_NV)], alone_NV, atol=2e-5, rtol=1e-4)


def test_packed_rows_have_the_loss_and_gradient_of_separate_documents_in_the_stock_model(
    model: PreTrainedModel,
) -> None:
    rows = pack_rows(draw_documents(12), 64, seed=0).rows
    loss, gradient = compute_gradient(model, rows)
    expected_loss, expected_gradient = compute_stock_gradient(model, rows)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-3)


def test_bfloat16_gradients_point_where_float32_gradients_point(model: PreTrainedModel) -> None:
    rows = draw_documents(12)
    loss, gradient = compute_gradient(model, rows, dtype=torch.bfloat16)
    expected_loss, expected_gradient = compute_gradient(model, rows)
    assert loss == pytest.approx(expected_loss, abs=5e-3)
    assert torch.cosine_similarity(gradient, expected_gradient, dim=0) > 0.999


def test_microbatches_change_neither_loss_nor_gradient(model: PreTrainedModel) -> None:
    rows = draw_documents(12)
    whole = compute_gradient(model, rows)
    cut = compute_gradient(model, rows, microbatch_tokens=60)
    assert cut[0] == pytest.approx(whole[0], abs=1e-6)
    torch.testing.assert_close(cut[1], whole[1], atol=1e-6, rtol=1e-4)


def test_the_number_of_workers_does_not_change_one_bit(model: PreTrainedModel) -> None:
    rows = draw_documents(12)
    num_threads = torch.get_num_threads()
    results = []
    try:
        for workers in (1, 3):
            torch.set_num_threads(workers)
            results.append(compute_gradient(model, rows, microbatch_tokens=60))
    finally:
        torch.set_num_threads(num_threads)
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_an_observations_label_does_not_reach_the_loss() -> None:
    model = build_tiny_model()
    losses = [
        compute_gradient(model, [build_row([5, 6, 7, 8, label], [True] * 4 + [False])])[0]
        for label in (9, 200)
    ]
    assert losses[0] == losses[1]


def test_a_model_is_handed_back_as_it_was() -> None:
    model = build_tiny_model()
    before = [module.forward for module in model.modules()]
    with document_attention(model), fused_layers(model):
        pass
    assert [module.forward for module in model.modules()] == before
    assert model.config._attn_implementation == "sdpa"


def test_a_model_may_be_lent_again_while_it_is_lent() -> None:
    model = build_tiny_model()
    before = [module.forward for module in model.modules()]
    with fused_layers(model):
        lent = [module.forward for module in model.modules()]
        with fused_layers(model):
            pass
        assert [module.forward for module in model.modules()] == lent
    assert [module.forward for module in model.modules()] == before


def test_every_token_has_one_place_and_groups_stay_nearly_full() -> None:
    lengths = [90, 3, 50, 88, 49, 48]
    spans = [Span(sum(lengths[:i]), length) for i, length in enumerate(lengths)]
    layout = build_layout(spans, torch.device("cpu"), num_tokens=sum(lengths))
    places = torch.cat([group.queries for group in layout.groups])
    assert places[layout.places_N].tolist() == list(range(sum(lengths)))
    assert len(places) <= sum(lengths) / (1 - MAX_PADDING_FRAC) + LENGTH_BUCKET * len(lengths)


def test_microbatches_hold_every_document_once() -> None:
    rows = pack_rows(draw_documents(20), 64, seed=0).rows
    microbatches = list(build_microbatches(rows, max_tokens=100, device=torch.device("cpu")))
    lengths = [sum(document.length for document in microbatch.members) for microbatch in microbatches]
    assert max(lengths) <= 100 + 40 // 2
    total = sum(microbatch.weights_M.sum().item() for microbatch in microbatches)
    assert total == sum(sum(row.loss_weights) for row in rows)


def draw_tree(seed: int, num_branches: int = 4) -> tuple[Row, list[Row]]:
    """A prompt with its continuations as one tree, and as documents that each hold the prompt."""
    prompt, *branches = draw_documents(1 + num_branches, seed=seed, max_length=20)
    documents = []
    for branch in branches:
        weights = (0.0,) * len(prompt.token_ids) + (1.0, *branch.loss_weights[1:])
        length = len(weights)
        documents.append(Row(prompt.token_ids + branch.token_ids, weights, (0,) * length))
    tree = Row(
        prompt.token_ids + tuple(token for branch in branches for token in branch.token_ids),
        (0.0,) * len(prompt.token_ids)
        + tuple(w for d in documents for w in d.loss_weights[len(prompt.token_ids) :]),
        (0,) * len(prompt.token_ids) + tuple(i + 1 for i, b in enumerate(branches) for _ in b.token_ids),
        is_tree=True,
    )
    return tree, documents


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tree_has_the_loss_and_gradient_of_its_branches_written_out(
    model: PreTrainedModel, dtype: torch.dtype
) -> None:
    trees, documents = zip(*(draw_tree(seed) for seed in range(5)), strict=True)
    extra = draw_documents(3, seed=9)
    plain = [*(document for group in documents for document in group), *extra]
    loss, gradient = compute_gradient(model, [*trees, *extra], dtype=dtype, microbatch_tokens=150)
    expected_loss, expected_gradient = compute_gradient(model, plain, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    assert loss == pytest.approx(expected_loss, abs=tolerance)
    if dtype == torch.float32:
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-3)
    assert torch.cosine_similarity(gradient, expected_gradient, dim=0) > 0.999


def test_scores_are_the_stock_models_log_probabilities_in_trees_and_alone(model: PreTrainedModel) -> None:
    tree, *documents = (
        replace(row, columns={"temperatures": (0.7,) * len(row.token_ids)})
        for row in (draw_tree(3)[0], *draw_tree(3)[1])
    )
    computer = GradientComputer(model, CrossEntropy(), dtype=torch.float32, microbatch_tokens=50)
    with computer.running():
        (tree_scores,) = computer.score([tree])
        scores = computer.score(documents)
    for document, document_scores in zip(documents, scores, strict=True):
        token_ids = torch.tensor([document.token_ids])
        with torch.no_grad():
            logprobs_TV = (model(token_ids).logits[0, :-1] / 0.7).log_softmax(-1)
        expected_T = logprobs_TV.gather(1, token_ids[0, 1:, None])[:, 0]
        expected_T = torch.where(torch.tensor(document.loss_weights[1:]) > 0, expected_T, 0.0)
        torch.testing.assert_close(torch.tensor(document_scores[1:]), expected_T, atol=1e-5, rtol=1e-4)
    in_documents = [score for row in scores for score in row if score]
    assert [score for score in tree_scores if score] == pytest.approx(in_documents, abs=1e-5)


def test_rows_that_are_compared_stay_in_one_microbatch() -> None:
    rows = pack_rows(draw_documents(20), 64, seed=0).rows
    kept = list(build_microbatches(rows, max_tokens=100, device=torch.device("cpu"), keep_rows=True))
    homes = [{document.row for document in microbatch.members} for microbatch in kept]
    assert sum(map(len, homes)) == len(set.union(*homes)) == len(rows)


def test_streams_come_in_few_lengths() -> None:
    """oneDNN prepares kernels for each shape anew; unpadded streams would have as many shapes as steps."""
    lengths = set()
    for seed in range(20):
        for microbatch in build_microbatches(
            draw_documents(20, seed=seed), max_tokens=300, device=torch.device("cpu")
        ):
            lengths.add(microbatch.token_ids_1N.shape[1])
    assert {length % TOKEN_BUCKET for length in lengths} == {0}
    assert len(lengths) <= 3
