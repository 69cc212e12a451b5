"""A byte-level BPE tokenizer for models grown from nothing.

The pre-tokenizer is exactly Qwen2's (single digits), so every tool that knows Qwen2 (GGUF among them) splits text
the same way. There is no unknown token: every byte is in the vocabulary. The text is not normalised, so decoding
gives back what was encoded. Training is deterministic in the texts and their order.
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ponderosa.errors import ConfigError
from ponderosa.steps import SPECIAL_DELIMITERS

QWEN2_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
EOS_TOKEN = "<|endoftext|>"
PAD_TOKEN = "<|pad|>"
NAMED_TOKENS = (
    EOS_TOKEN,
    PAD_TOKEN,
    SPECIAL_DELIMITERS.end_of_step,
    SPECIAL_DELIMITERS.output,
    SPECIAL_DELIMITERS.end_of_output,
)
NUM_SPECIAL = 32
SPECIAL_TOKENS = (*NAMED_TOKENS, *(f"<|reserved_{i}|>" for i in range(NUM_SPECIAL - len(NAMED_TOKENS))))
NUM_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train on texts; `vocab_size` counts bytes, merges and the 32 special tokens, which take the last ids.

    Fewer merges than asked for are made when the texts hold no more pairs. Raises ConfigError if the bytes and
    special tokens alone do not fit.
    """
    smallest = NUM_BYTES + NUM_SPECIAL
    if vocab_size < smallest:
        raise ConfigError(f"vocab_size {vocab_size} is too small: bytes and special tokens need {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - NUM_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def pad_vocab_size(num_tokens: int) -> int:
    """The model's vocabulary size: the next multiple of 64, so that the output head is well shaped."""
    return -(-num_tokens // 64) * 64
