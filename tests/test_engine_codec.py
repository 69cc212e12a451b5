"""Codecs: special tokens stay apart from text, prompts follow the format, directories load without a network."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from engine_models import SHAPE
from ponderosa.engines.codec import HFCodec, load_codec
from ponderosa.engines.loading import load_engine, select_device
from ponderosa.engines.protocol import GenerateRequest
from ponderosa.engines.scripted import ByteCodec
from ponderosa.errors import ConfigError, DataError
from ponderosa.formats import CHAT_CODE, PLAIN_PROSE, PromptFormat
from ponderosa.model_directory import load_model
from ponderosa.steps import Example, Special

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
)
TEXTS = ["Tom has 3 apples and 14 pears.", "x = 2 + 3\nprint(x)\n", "user assistant system solve the problem"]


def build_tokenizer(*, with_bos: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end_of_step|>", "<s>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if with_bos:
        bos = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|im_end|>",
        bos_token="<s>" if with_bos else None,
        chat_template=CHATML,
    )


TOKENIZER = build_tokenizer()
CODEC = HFCodec(TOKENIZER)
SPECIAL_IDS = set(TOKENIZER.added_tokens_decoder)
hostile = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from(["<|endoftext|>", "<|im_end|>", "<|end_of_step|>"]))
).map("".join)


@given(hostile)
def test_text_comes_back_and_never_holds_special_ids(text: str) -> None:
    for codec in (CODEC, ByteCodec()):
        ids = codec.encode(text)
        assert codec.decode(ids) == text
        assert not codec.eos_ids & set(ids)
    assert not SPECIAL_IDS & set(CODEC.encode(text))


@given(hostile)
def test_special_strings_in_a_chat_question_stay_text(question: str) -> None:
    ids = CODEC.encode_prompt(CHAT_CODE, question)
    assert sum(token_id in SPECIAL_IDS for token_id in ids) == 5
    assert question.strip() in CODEC.decode(ids)


def test_a_chat_prompt_is_exactly_what_the_template_encodes() -> None:
    messages = [
        {"role": "system", "content": CHAT_CODE.system},
        {"role": "user", "content": "Tom has 3 apples."},
    ]
    expected = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert CODEC.encode_prompt(CHAT_CODE, "Tom has 3 apples.") == expected


def test_a_template_without_a_system_role_gets_it_in_the_first_turn() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    few_shot = CHAT_CODE.model_copy(update={"few_shot": (Example("1 + 1?", "2"),)})
    text = HFCodec(tokenizer).decode(HFCodec(tokenizer).encode_prompt(few_shot, "2 + 2?"))
    assert text.startswith(f"<|im_start|>user\n{CHAT_CODE.system}\n\n1 + 1?<|im_end|>")
    assert text.endswith("<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n")


def test_a_tokenizer_without_a_template_asks_for_the_plain_format() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="--format plain"):
        HFCodec(tokenizer).encode_prompt(CHAT_CODE, "2 + 2?")


def test_a_plain_prompt_opens_as_the_tokenizer_opens_texts() -> None:
    codec = HFCodec(build_tokenizer(with_bos=True))
    ids = codec.encode_prompt(PLAIN_PROSE, "2 + 2?")
    assert codec.decode(ids) == "<s>Question: 2 + 2?\nSolution:"
    assert CODEC.decode(CODEC.encode_prompt(PromptFormat(name="p"), "2")) == "Question: 2\nSolution:"


def test_a_special_is_one_id_and_an_unknown_one_is_an_error() -> None:
    assert CODEC.encode(Special("<|end_of_step|>")) == [TOKENIZER.convert_tokens_to_ids("<|end_of_step|>")]
    with pytest.raises(DataError, match="no special token"):
        CODEC.encode(Special("<|output|>"))


def test_a_saved_directory_loads_into_an_engine(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {**SHAPE, "vocab_size": 384, "eos_token_id": [TOKENIZER.eos_token_id, 7]}
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    engine = load_engine(tmp_path, device="cpu", num_slots=2)
    assert (engine.max_context, engine.codec.eos_ids) == (256, {TOKENIZER.eos_token_id, 7})
    engine.submit(GenerateRequest(tuple(engine.codec.encode("Tom")), 3, seed=0))
    assert engine.tick() == []


def test_a_folder_that_is_no_model_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no model directory: it has no config\.json"):
        load_model(tmp_path)
    with pytest.raises(DataError, match=r"it has no tokenizer\.json"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no \*\.safetensors"):
        load_model(tmp_path)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="cpu"):
        select_device("tpu")
