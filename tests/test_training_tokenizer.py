"""The tokenizer of models grown from nothing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponderosa.errors import ConfigError
from ponderosa.model_directory import load_tokenizer
from ponderosa.training.tokenizer import (
    NUM_SPECIAL,
    QWEN2_PATTERN,
    SPECIAL_TOKENS,
    pad_vocab_size,
    train_tokenizer,
)
from tiny_training import TEXTS, TOKENIZER


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_as_it_went_in(text: str) -> None:
    if any(special in text for special in SPECIAL_TOKENS):
        return
    token_ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(token_ids, skip_special_tokens=False) == text
    assert not set(token_ids) & set(TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)))


def test_every_digit_is_a_token_of_its_own() -> None:
    tokenizer = train_tokenizer(["the year 1999 2024 1999 2024 1999"] * 50, 400)
    tokens = tokenizer.tokenize("in 1999")
    assert tokens[-4:] == ["1", "9", "9", "9"]


def test_the_pattern_is_qwen2s() -> None:
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert QWEN2_PATTERN == PRETOKENIZE_REGEX


def test_special_tokens_are_thirty_two_distinct_last_ids() -> None:
    ids = TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert len(set(ids)) == NUM_SPECIAL
    assert sorted(ids) == list(range(len(TOKENIZER) - NUM_SPECIAL, len(TOKENIZER)))
    assert (
        len(
            {
                TOKENIZER.eos_token_id,
                TOKENIZER.pad_token_id,
                TOKENIZER.convert_tokens_to_ids("<|end_of_step|>"),
            }
        )
        == 3
    )
    assert TOKENIZER.unk_token is None


def test_the_same_texts_give_the_same_tokenizer() -> None:
    again = train_tokenizer(TEXTS, 320)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_a_saved_tokenizer_loads_without_a_network_and_encodes_alike(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = "Ann has 12 apples.\n  Ünïcode 苹果 <|output|>"
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert (loaded.eos_token, loaded.pad_token) == ("<|endoftext|>", "<|pad|>")


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="288"):
        train_tokenizer(TEXTS, 287)


@given(st.integers(1, 10_000))
def test_padded_vocabularies_are_the_next_multiple_of_sixty_four(num_tokens: int) -> None:
    padded = pad_vocab_size(num_tokens)
    assert padded % 64 == 0
    assert num_tokens <= padded < num_tokens + 64
