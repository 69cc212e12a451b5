"""Packing and batches."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.data.packing import build_batches, pack_rows, split_documents
from ponderosa.data.rows import build_row
from ponderosa.errors import DataError
from ponderosa.records import Row

DOCUMENTS = st.lists(
    st.lists(st.tuples(st.integers(0, 999), st.booleans()), min_size=1, max_size=30).map(
        lambda tokens: build_row([token for token, _ in tokens], [sampled for _, sampled in tokens])
    ),
    min_size=1,
    max_size=20,
)


@given(DOCUMENTS, st.integers(2, 30))
def test_packing_keeps_every_token_and_splits_only_what_is_too_long(
    documents: list[Row], length: int
) -> None:
    packing = pack_rows(documents, length, seed=0)
    assert all(len(row.token_ids) <= length for row in packing.rows)
    packed = Counter(token for row in packing.rows for token in row.token_ids)
    assert packed == Counter(token for document in documents for token in document.token_ids)
    assert packing.num_documents == len(documents)
    assert packing.num_split == sum(len(document.token_ids) > length for document in documents)
    pieces = Counter(piece for row in packing.rows for piece in split_documents(row))
    whole = Counter(document for document in documents if len(document.token_ids) <= length)
    assert whole <= pieces


@given(DOCUMENTS, st.integers(2, 30))
def test_packed_documents_are_numbered_from_zero_and_start_without_loss(
    documents: list[Row], length: int
) -> None:
    for row in pack_rows(documents, length, seed=0).rows:
        starts = [
            t
            for t in range(len(row.document_ids))
            if row.document_ids[t - 1 : t] != row.document_ids[t : t + 1]
        ]
        assert [row.document_ids[t] for t in starts] == list(range(len(starts)))
        assert all(row.loss_weights[t] == 0.0 for t in starts)


def test_packing_leaves_little_room_and_mixes_lengths_within_a_row() -> None:
    lengths = Random(0).choices(range(20, 200), k=600)
    packing = pack_rows([build_row([1] * n, [True] * n) for n in lengths], 512, seed=0)
    spreads = [
        max(sizes) - min(sizes)
        for row in packing.rows
        if len(sizes := [len(document.token_ids) for document in split_documents(row)]) > 2
    ]
    assert packing.fill_frac > 0.95
    assert sum(spreads) / len(spreads) > 60


def test_packing_depends_on_the_seed_alone() -> None:
    documents = [build_row([n] * n, [True] * n) for n in range(1, 30)]
    assert pack_rows(documents, 40, seed=1) == pack_rows(documents, 40, seed=1)
    assert pack_rows(documents, 40, seed=1) != pack_rows(documents, 40, seed=2)


def test_rows_too_short_to_predict_anything_are_refused() -> None:
    with pytest.raises(DataError, match="length 1"):
        pack_rows([build_row([1], [True])], 1, seed=0)


@given(DOCUMENTS, st.integers(1, 100), st.integers(0, 5), st.integers(1, 3))
def test_every_epoch_gives_every_row_once(documents: list[Row], tokens: int, seed: int, epochs: int) -> None:
    batches = build_batches(documents, tokens_per_step=tokens, seed=seed, epochs=epochs)
    given_rows = Counter(row for batch in batches for row in batch)
    assert given_rows == Counter({row: count * epochs for row, count in Counter(documents).items()})
    assert batches == build_batches(documents, tokens_per_step=tokens, seed=seed, epochs=epochs)


def test_seeds_and_epochs_give_different_orders() -> None:
    rows = [build_row([n, n], [True] * 2) for n in range(50)]
    first, second = (build_batches(rows, tokens_per_step=2, seed=seed, epochs=2) for seed in (0, 1))
    assert first[:50] != second[:50]
    assert first[:50] != first[50:]


def test_a_token_budget_repeats_epochs_until_it_is_spent() -> None:
    rows = [build_row([n] * 10, [True] * 10) for n in range(5)]
    batches = build_batches(rows, tokens_per_step=20, seed=0, max_tokens=120)
    assert sum(len(row.token_ids) for batch in batches for row in batch) == 120


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        build_batches([], tokens_per_step=10, seed=0)
