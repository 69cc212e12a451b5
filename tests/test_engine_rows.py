"""Which row a prompt is placed in, and how prefills are grouped."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.engines.prefill import MAX_TOKENS, Span, build_grid, plan_prefill
from ponderosa.engines.rows import RowTable


def test_a_prompt_that_begins_with_a_retained_row_takes_that_row_over() -> None:
    rows = RowTable(4, 64)
    first = rows.place(tuple(range(20)), is_long=False)
    rows.release(first.row, is_over=False)
    second = rows.place(tuple(range(25)), is_long=False)
    assert (second.row, second.source, second.shared) == (first.row, first.row, 20)


def test_an_active_row_is_copied_from_and_left_alone() -> None:
    rows = RowTable(4, 64)
    first = rows.place(tuple(range(20)), is_long=False)
    second = rows.place(tuple(range(20)), is_long=False)
    assert second.row != first.row
    assert (second.source, second.shared, second.stage) == (first.row, 20, 1)


def test_a_read_only_sequence_takes_no_row_of_its_own_where_another_holds_it() -> None:
    rows = RowTable(4, 64)
    first = rows.place(tuple(range(20)), is_long=False, is_read_only=True)
    second = rows.place(tuple(range(12)), is_long=False, is_read_only=True)
    assert (second.row, second.source, second.shared) == (first.row, first.row, 12)
    assert rows.lengths[first.row] == 20
    third = rows.place((*range(12), 40), is_long=False, is_read_only=True)
    assert third.row != first.row
    assert (third.source, third.shared) == (first.row, 12)


def test_rows_on_the_other_side_of_the_longrope_threshold_share_nothing() -> None:
    rows = RowTable(4, 64)
    rows.place(tuple(range(20)), is_long=False)
    assert rows.place(tuple(range(20)), is_long=True).shared == 0


def test_a_request_that_is_over_gives_its_row_up_before_an_older_one_that_may_go_on() -> None:
    rows = RowTable(2, 64)
    paused, ended = rows.place((1, 2, 3), is_long=False), rows.place((4, 5, 6), is_long=False)
    rows.release(paused.row, is_over=False)
    rows.release(ended.row, is_over=True)
    assert rows.place((7, 8, 9), is_long=False).row == ended.row


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=12))
def test_what_is_shared_is_a_common_prefix(prompts: list[list[int]]) -> None:
    rows = RowTable(12, 64)
    for prompt in prompts:
        before = rows.tokens.copy(), rows.lengths.copy()
        placement = rows.place(tuple(prompt), is_long=False)
        assert placement.shared <= placement.length == len(prompt)
        if placement.shared:
            assert placement.shared <= before[1][placement.source]
            assert before[0][placement.source, : placement.shared].tolist() == prompt[: placement.shared]
        if len(prompt) % 3 == 0:
            rows.release(placement.row, is_over=len(prompt) % 2 == 0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 900), st.booleans()), max_size=30))
def test_prefill_batches_hold_every_span_once_and_keep_the_sides_apart(
    shapes: list[tuple[int, int, bool]],
) -> None:
    spans = [Span(row, start, start + length, is_long) for row, (start, length, is_long) in enumerate(shapes)]
    batches = plan_prefill(spans)
    assert sorted(span.row for batch in batches for span in batch) == [s.row for s in spans if s.length]
    for batch in batches:
        assert len({span.is_long for span in batch}) == 1
        assert len(batch) * max(span.length for span in batch) <= MAX_TOKENS


def test_padding_is_written_to_the_trash_and_a_long_batch_reaches_the_threshold() -> None:
    tokens = np.arange(200).reshape(2, 100)
    grid = build_grid([Span(0, 2, 4), Span(1, 0, 3)], tokens, trash=99, long_rope_after=None)
    assert grid.token_ids.tolist() == [[2, 3, 0], [100, 101, 102]]
    assert grid.columns.tolist() == [[2, 3, 99], [0, 1, 2]]
    long = build_grid([Span(0, 0, 3, True)], tokens, trash=99, long_rope_after=50)
    assert long.positions.tolist() == [[0, 1, 2, 50]]
    assert long.columns.tolist() == [[0, 1, 2, 99]]
