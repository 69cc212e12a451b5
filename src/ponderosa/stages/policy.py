"""Which model wrote a set of token ids, as far as it matters to whoever trains on them.

Ids mean something only under the tokenizer that made them, and prompts teach only the format they were put in. Both
are compared by content before a model is trained on another's ids; weights may differ, that is the point.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponderosa.artifacts import read_json
from ponderosa.engines.codec import load_codec
from ponderosa.errors import ConfigError
from ponderosa.formats import PromptFormat, load_format
from ponderosa.identity import content_hash
from ponderosa.model_directory import load_tokenizer


@dataclass(frozen=True, slots=True)
class Policy:
    """model_id: hash of the weights' directory. eos_ids: what ends a solution of this model."""

    model_id: str
    tokenizer: str
    prompt_format: str
    eos_ids: tuple[int, ...]


def describe_policy(model_dir: Path, model_id: str) -> Policy:
    """The policy in a model directory."""
    prompt_format = load_format(model_dir)
    return Policy(
        model_id=model_id,
        tokenizer=hash_tokenizer(load_tokenizer(model_dir), prompt_format),
        prompt_format=hash_format(prompt_format),
        eos_ids=tuple(sorted(load_codec(model_dir).eos_ids)),
    )


def load_policy(path: Path) -> Policy:
    """What a rollout stage wrote about the model it asked."""
    record = read_json(path)
    return Policy(**{**record, "eos_ids": tuple(record["eos_ids"])})


def hash_tokenizer(tokenizer: Any, prompt_format: PromptFormat) -> str:
    """Hash of how text becomes ids, whatever files say so: vocabulary, merges, added tokens, and in a chat layout the
    template. Truncation and padding are a caller's settings."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state = {key: value for key, value in state.items() if key not in ("truncation", "padding")}
    template = tokenizer.chat_template if prompt_format.layout == "chat" else None
    return content_hash([state, tokenizer.eos_token_id, tokenizer.bos_token_id, template])


def hash_format(prompt_format: PromptFormat) -> str:
    return content_hash(prompt_format.model_dump(mode="json"))


def check_same_ids(policy: Policy, tokenizer: Any, prompt_format: PromptFormat, *, where: str) -> None:
    """Raises ConfigError if ids written by `policy` mean something else to the model that would be trained on them."""
    for name, theirs, ours in (
        ("tokenizer", policy.tokenizer, hash_tokenizer(tokenizer, prompt_format)),
        ("prompt format", policy.prompt_format, hash_format(prompt_format)),
    ):
        if theirs != ours:
            raise ConfigError(
                f"the rollouts of {where} were written with another {name} ({theirs}) than that of the model to be "
                f"trained ({ours}), and token ids are never encoded again; roll out a model of the same family, or "
                "train on `solutions`"
            )
