"""Rows from text and from worked solutions."""

from ponderosa.data.rows import build_solution_row, build_text_row
from ponderosa.steps import Segment, Special

EOS = 0


def encode(text: str) -> list[int]:
    return [900] if isinstance(text, Special) else [ord(character) for character in text]


def test_a_text_is_learned_from_its_second_token_to_its_end() -> None:
    row = build_text_row("abc", encode, eos_id=EOS)
    assert row.token_ids == (97, 98, 99, EOS)
    assert row.loss_weights == (0.0, 1.0, 1.0, 1.0)
    assert row.document_ids == (0, 0, 0, 0)


def test_a_solution_carries_loss_only_where_the_model_writes() -> None:
    segments = [
        Segment("a", True),
        Segment(Special("<|end_of_step|>"), True),
        Segment("9", False),
        Segment("b", True),
    ]
    row = build_solution_row(encode("Q"), segments, encode, eos_id=EOS)
    assert row.token_ids == (81, 97, 900, 57, 98, EOS)
    assert row.loss_weights == (0.0, 1.0, 1.0, 0.0, 1.0, 1.0)


def test_a_learned_question_leaves_observations_without_loss() -> None:
    segments = [Segment("a", True), Segment("9", False)]
    row = build_solution_row(encode("QQ"), segments, encode, eos_id=EOS, prompt_weight=0.5)
    assert row.loss_weights == (0.0, 0.5, 1.0, 0.0, 1.0)
