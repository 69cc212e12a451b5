"""Pages: who holds them, how a decode step reads them, and that reading them once for a group changes nothing."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_models import build_engine, build_tiny_model, draw_prompts, run_all
from ponderosa.engines.attention import RowAttention
from ponderosa.engines.kv_pages import KVPages
from ponderosa.engines.page_table import MAX_IDLE_FRAC, PAGE_TOKENS, IntArray, PageTable, count_pages
from ponderosa.engines.paged_attention import PagedAttention
from ponderosa.engines.protocol import GenerateRequest, Sampling
from ponderosa.engines.reading import PAGE_BUCKET, READ_COST, Reading, plan_reading

KINDS = {
    "llama, as many key/value heads": ("llama", {"num_key_value_heads": 4}),
    "llama, grouped queries": ("llama", {}),
    "qwen3, as many key/value heads": ("qwen3", {"num_key_value_heads": 4}),
    "qwen3, grouped queries": ("qwen3", {}),
    "gemma2, windows and softcap": ("gemma2", {}),
    "gemma3, windows": ("gemma3", {}),
}


def build_table(num_tokens: list[int], shared: dict[int, tuple[int, int]]) -> PageTable:
    """Rows of these lengths; row: (source, tokens) begins as another row does. All active, arranged."""
    table = PageTable(len(num_tokens), 512)
    for row, length in enumerate(num_tokens):
        if row in shared:
            table.share(shared[row][0], row, shared[row][1])
        table.hold(row, length)
    table.arrange(np.ones(len(num_tokens), dtype=np.bool_))
    return table


def list_read(reading: Reading, page_ids: IntArray) -> list[tuple[int, int, int]]:
    """Every (row, page, place of the page in the row) that the parts read."""
    results = []
    for part in reading.parts:
        pages = page_ids[part.pages] if isinstance(part.pages, slice) else part.pages
        results += [
            (row, page)
            for page, rows in zip(pages.tolist(), part.readers.tolist(), strict=True)
            for row in rows
        ]
    assert sum(row >= 0 for row, _ in results) == np.count_nonzero(~reading.is_padding)
    found = []
    for row, place in zip(*(~reading.is_padding).nonzero(), strict=True):
        reader, page = results[reading.first[row, place] + reading.reader[row, place]]
        assert reader == row
        found.append((int(row), page, int(place)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_groups_and_singles_together_say_what_each_request_says_alone(kind: str) -> None:
    architecture, overrides = KINDS[kind]
    model = build_tiny_model(architecture, **overrides)
    long, longer, *singles = draw_prompts(6, low=70, high=110)
    branches = [(*longer[:66], *tail) for tail in draw_prompts(3, low=2, high=9, seed=1)]
    prompts = [long] * 4 + singles + branches + [longer] * 3
    requests = [GenerateRequest(p, 6 + 5 * (i % 7), i, Sampling()) for i, p in enumerate(prompts)]
    together = run_all(build_engine(model, num_slots=16), requests)
    for request, reply in zip(requests, together, strict=True):
        (alone,) = run_all(build_engine(model, num_slots=1), [request])
        assert reply.token_ids == alone.token_ids
        assert reply.model_logprobs == pytest.approx(alone.model_logprobs, abs=1e-5)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)], ids=str)
@pytest.mark.parametrize("window", [None, 20, 50])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_reading_each_page_once_equals_reading_every_row_from_end_to_end(
    heads: tuple[int, int], window: int | None, softcap: float | None
) -> None:
    num_heads, kv_heads = heads
    lengths = [1, 32, 33, 100, 140, 101, 129, 97, 70, 66]
    table = build_table(lengths, {5: (4, 100), 6: (4, 128), 7: (4, 96), 9: (8, 64)})
    generator = torch.Generator().manual_seed(0)
    keys, values, query = (
        torch.randn(*shape, generator=generator)
        for shape in (
            (table.num_pages + 32, kv_heads, 16, PAGE_TOKENS),
            (table.num_pages + 32, kv_heads, PAGE_TOKENS, 8),
            (len(lengths) + 2, num_heads, 1, 16),
        )
    )
    newest = np.array([length - 1 for length in lengths] + [-1, -1])
    ids = np.pad(table.ids, ((0, 2), (0, 0)))
    grouped = PagedAttention(plan_reading(ids, newest, table.shared_end), keys.device)
    grouped.advance(torch.from_numpy(newest))
    whole = RowAttention(torch.from_numpy(table.ids[:, :5]), torch.from_numpy(newest)[: len(lengths), None])
    read_once = grouped.attend(query, keys, values, window=window, softcap=softcap)
    expected = whole.attend(query[: len(lengths)], keys, values, window=window, softcap=softcap)
    torch.testing.assert_close(read_once[: len(lengths)], expected, atol=1e-5, rtol=0)
    assert read_once.isfinite().all()


def test_samples_of_one_prompt_hold_its_full_pages_together() -> None:
    engine = build_engine(build_tiny_model("llama"))
    prompt = draw_prompts(1, low=140, high=141)[0]
    for seed in range(8):
        engine.submit(GenerateRequest(prompt, 4, seed))
    engine.tick()
    table = engine._rows.pages
    assert table.num_pages - 1 == 139 // PAGE_TOKENS + 8
    assert table.shared_end - 1 == 139 // PAGE_TOKENS


def test_every_row_reads_each_of_its_pages_once() -> None:
    lengths = [200] * 8 + [70, 5, 64, 300]
    table = build_table(lengths, dict.fromkeys(range(1, 8), (0, 190)) | {11: (8, 64)})
    newest = np.array(lengths) - 1
    reading = plan_reading(table.ids, newest, table.shared_end)
    expected = [
        (row, int(table.ids[row, place]), place)
        for row, length in enumerate(lengths)
        for place in range(count_pages(length))
    ]
    assert sorted(list_read(reading, np.arange(table.num_pages + 64))) == sorted(expected)
    results = reading.first * 1000 + reading.reader
    assert len(np.unique(results[~reading.is_padding])) == len(expected)
    own, shared = reading.parts
    assert own.readers.shape[1] == 1
    assert shared.readers.shape == (PAGE_BUCKET, 8)


def test_a_page_with_far_more_readers_than_the_others_is_read_again_from_a_copy() -> None:
    num_pairs = 40
    lengths = [32 * 3 + 1] * (2 * num_pairs)
    shared = {row: (row - 1, 96) if row % 2 else (0, 32) for row in range(1, 2 * num_pairs)}
    table = build_table(lengths, shared)
    reading = plan_reading(table.ids, np.array(lengths) - 1, table.shared_end)
    _, in_place, copied = reading.parts
    assert in_place.readers.shape[1] == copied.readers.shape[1]
    assert not isinstance(copied.pages, slice)
    assert len(set(copied.pages.tolist())) == 1
    seats = in_place.readers.size + copied.readers.size
    assert seats < 2 * num_pairs * (1 + READ_COST) + 2 * num_pairs * 2
    assert len(list_read(reading, np.arange(table.num_pages + 64))) == 2 * num_pairs * 4


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 200)), max_size=30))
def test_no_row_writes_where_another_reads(steps: list[tuple[int, int, int]]) -> None:
    table = PageTable(10, 256)
    lengths = [0] * 10
    for source, row, length in steps:
        shared = min(length, lengths[source])
        table.share(source, row, shared)
        table.hold(row, length + 1)
        lengths[row] = length
        holders = np.bincount(table.ids.ravel(), minlength=table.num_pages)
        for one, held in enumerate(lengths):
            assert np.count_nonzero(table.ids[one]) >= count_pages(held)
            written = table.ids[one, held // PAGE_TOKENS]
            assert holders[written] == 1 or written == 0


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_placed_released_and_arranged_every_row_finds_its_own_tokens(seed: int) -> None:
    """Pages stand for the tokens written in them, so that every copy and move can be checked."""
    rng = random.Random(seed)
    table, cache = PageTable(12, 200), KVPages(dtype=torch.float32, device=torch.device("cpu"))
    cache.keys[0] = cache.values[0] = torch.zeros(0, PAGE_TOKENS)
    written: list[list[int]] = [[] for _ in range(12)]
    is_active = np.zeros(12, dtype=np.bool_)
    for token in range(1, 100):
        row, source = rng.randrange(12), rng.randrange(12)
        if rng.random() < 0.3:
            shared = rng.randrange(len(written[source]) + 1)
            copied = table.share(source, row, shared)
            written[row] = written[source][:shared]
            cache.reserve(table.num_pages)
            if copied is not None:
                cache.values[0][copied[1]] = cache.values[0][copied[0]]
        for _ in range(min(rng.choice([1, 1, 40]), 199 - len(written[row]))):
            table.hold(row, len(written[row]) + 1)
            cache.reserve(table.num_pages)
            (page,), (place,) = table.find(np.array([row]), np.array([len(written[row])]))
            cache.values[0][page, place] = token
            written[row].append(token)
        is_active[row] = rng.random() < 0.7
        sources, targets = table.arrange(is_active)
        if len(sources):
            cache.values[0][targets] = cache.values[0][sources]
        for one, expected in enumerate(written):
            rows, places = np.full(len(expected), one), np.arange(len(expected))
            assert cache.values[0][table.find(rows, places)].tolist() == expected
        readers = np.bincount(table.ids[is_active].ravel(), minlength=table.num_pages)[1:]
        assert (readers[table.shared_end - 1 :] <= 1).all()
        last = int(readers.nonzero()[0].max(initial=-1)) + 1
        assert last - np.count_nonzero(readers) <= MAX_IDLE_FRAC * last


def test_pages_grow_without_losing_what_they_hold() -> None:
    cache = KVPages(dtype=torch.float32, device=torch.device("cpu"))
    cache.reserve(3)
    keys, values = cache.find_layer(0, torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 6))
    assert keys.shape == (3, 2, 4, PAGE_TOKENS)
    assert values.shape == (3, 2, PAGE_TOKENS, 6)
    keys[2], values[1] = 5, 7
    cache.reserve(20)
    keys, values = cache.find_layer(0, keys, values)
    assert len(keys) == len(values) == cache.num_pages == 20
    assert (float(keys.sum()), float(values.sum())) == (5 * keys[0].numel(), 7 * values[0].numel())
    cache.move(np.array([1, 2]), np.array([2, 1]))
    assert float(keys[1].sum()) == 5 * keys[0].numel()
    assert float(values[2].sum()) == 7 * values[0].numel()
