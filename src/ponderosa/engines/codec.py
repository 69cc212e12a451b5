"""Text to token ids and back, on a Hugging Face fast tokenizer.

The text of users and models never yields special ids, however it spells them; only `Special` strings do, and the
special tokens that a chat template itself writes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import GenerationConfig

from ponderosa.errors import ConfigError, DataError
from ponderosa.formats import PromptFormat
from ponderosa.identity import content_hash
from ponderosa.model_directory import load_tokenizer
from ponderosa.steps import Special


class HFCodec:
    """The codec of one tokenizer; see `ponderosa.engines.protocol.Codec`.

    eos_ids: further ids that end a turn (chat models name several in their generation config).
    Raises DataError if the tokenizer has no end-of-text token or is not a fast one.
    """

    def __init__(self, tokenizer: Any, eos_ids: Sequence[int] = ()) -> None:
        backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise DataError("the tokenizer has no fast (tokenizers) form; save the model with tokenizer.json")
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer names no eos_token; set it in tokenizer_config.json")
        self.eos_id: int = tokenizer.eos_token_id
        self.eos_ids = frozenset({self.eos_id, *eos_ids})
        self.pad_id: int | None = tokenizer.pad_token_id
        self.vocab_size: int = len(tokenizer)
        self._tokenizer = tokenizer
        self._template = Tokenizer.from_str(backend.to_str())
        self._text = Tokenizer.from_str(backend.to_str())
        self._text.encode_special_tokens = True
        self._special_strings = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        bos_id = tokenizer.bos_token_id
        opening = self._template.encode("", add_special_tokens=True).ids
        self._opening: list[int] = [bos_id] if bos_id is not None and opening[:1] == [bos_id] else []

    def hash_content(self, layout: str) -> str:
        """Hash of how text becomes ids, whatever files say so: vocabulary, merges, special tokens, and for the chat
        layout the template. Truncation and padding are a caller's settings."""
        state = json.loads(self._template.to_str())
        state = {key: value for key, value in state.items() if key not in ("truncation", "padding")}
        template = self._tokenizer.chat_template if layout == "chat" else None
        return content_hash([state, self.eos_id, self._opening, template])

    def encode(self, text: str) -> list[int]:
        """Token ids of text. A `Special` gives its one id; a special string inside ordinary text stays text."""
        if not isinstance(text, Special):
            ids: list[int] = self._text.encode(text, add_special_tokens=False).ids
            return ids
        token_id: int | None = self._template.token_to_id(str(text))
        if token_id is None:
            raise DataError(
                f"the tokenizer has no special token {str(text)!r}; use a prompt format with plain delimiters"
            )
        return [token_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included as they are spelled."""
        text: str = self._template.decode(list(token_ids), skip_special_tokens=False)
        return text

    def encode_prompt(self, prompt_format: PromptFormat, question: str) -> list[int]:
        """The prompt of a question: a beginning-of-text token where the tokenizer adds one, then the layout."""
        if prompt_format.layout == "plain":
            return self._opening + self.encode(prompt_format.render_plain(question))
        return self._encode_chat(_build_messages(prompt_format, question))

    def _encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Through the tokenizer's own template, exactly; contents that spell a special token are encoded apart."""
        contents = [message["content"] for message in messages]
        if not any(special in content for special in self._special_strings for content in contents):
            return self._encode_template(self._render_chat(messages))
        marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
        marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
        rest = self._render_chat(marked)
        ids: list[int] = []
        for mark, content in zip(marks, contents, strict=True):
            before, found, rest = rest.partition(mark)
            if not found:
                raise ConfigError("the chat template drops or reorders messages; use --format plain")
            ids += self._encode_template(before) + self.encode(content.strip())
        return ids + self._encode_template(rest)

    def _encode_template(self, text: str) -> list[int]:
        ids: list[int] = self._template.encode(text, add_special_tokens=False).ids
        return ids

    def _render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            raise ConfigError("this model's tokenizer has no chat template; use --format plain")
        try:
            return self._apply_template(messages)
        except TemplateError:
            return self._apply_template(_merge_system(messages))

    def _apply_template(self, messages: Sequence[dict[str, str]]) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return text


def load_codec(model_dir: Path) -> HFCodec:
    """The codec of a local model directory; no network, no remote code.

    Raises DataError if the directory holds no usable tokenizer.
    """
    return HFCodec(load_tokenizer(model_dir), _load_eos_ids(model_dir))


def _load_eos_ids(model_dir: Path) -> list[int]:
    """The ids that end a turn according to the model's generation config, if there is one."""
    if not (model_dir / "generation_config.json").is_file():
        return []
    eos = GenerationConfig.from_pretrained(model_dir, local_files_only=True).eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _build_messages(prompt_format: PromptFormat, question: str) -> list[dict[str, str]]:
    """System text, worked examples as earlier turns, then the question."""
    messages = [{"role": "system", "content": prompt_format.system}] if prompt_format.system else []
    for example in prompt_format.few_shot:
        messages.append({"role": "user", "content": example.question})
        messages.append({"role": "assistant", "content": example.solution})
    return [*messages, {"role": "user", "content": question}]


def _merge_system(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The same conversation for templates without a system role: its text opens the first user turn."""
    if messages[0]["role"] != "system":
        return list(messages)
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
