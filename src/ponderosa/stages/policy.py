"""Which model wrote a set of token ids, as far as it matters to whoever trains on them.

Ids mean something only under the tokenizer that made them, and prompts teach only the format they were put in. Both
are compared by content before a model is trained on another's ids; weights may differ, that is the point.
"""

from dataclasses import dataclass
from pathlib import Path

from ponderosa.adapter_directory import Trunk
from ponderosa.artifacts import read_json
from ponderosa.engines.codec import HFCodec, load_codec
from ponderosa.engines.loading import load_scorer
from ponderosa.engines.scorer import NativeScorer
from ponderosa.errors import ConfigError
from ponderosa.formats import PromptFormat, load_format
from ponderosa.identity import content_hash
from ponderosa.reward_model_directory import find_home


@dataclass(frozen=True, slots=True)
class Policy:
    """model_id: hash of the weights' directory. eos_ids: what ends a solution of this model."""

    model_id: str
    tokenizer: str
    prompt_format: str
    eos_ids: tuple[int, ...]


def describe_policy(codec: HFCodec, prompt_format: PromptFormat, model_id: str) -> Policy:
    """A model by what its token ids mean."""
    return Policy(
        model_id=model_id,
        tokenizer=codec.hash_content(prompt_format.layout),
        prompt_format=hash_format(prompt_format),
        eos_ids=tuple(sorted(codec.eos_ids)),
    )


def load_policy(path: Path) -> Policy:
    """What a rollout or search stage wrote about the model it asked."""
    record = read_json(path)
    return Policy(**{**record, "eos_ids": tuple(record["eos_ids"])})


def hash_format(prompt_format: PromptFormat) -> str:
    return content_hash(prompt_format.model_dump(mode="json"))


def check_same_ids(policy: Policy, codec: HFCodec, prompt_format: PromptFormat, *, where: str) -> None:
    """Raises ConfigError if ids written by `policy` mean something else to the model that would be trained on them."""
    if difference := find_difference(policy, codec, prompt_format):
        name, theirs, ours = difference
        raise ConfigError(
            f"the rollouts of {where} were written with another {name} ({theirs}) than that of the model to be "
            f"trained ({ours}), and token ids are never encoded again; roll out a model of the same family, or "
            "train on `solutions`"
        )


def check_same_format(policy: Policy, prompt_format: PromptFormat, *, where: str) -> None:
    """Raises ConfigError if what `policy` wrote is put otherwise than the model that would be trained on it puts it."""
    if policy.prompt_format != hash_format(prompt_format):
        raise ConfigError(
            f"the solutions of {where} were written in another prompt format ({policy.prompt_format}) than that of the "
            f"model to be trained ({hash_format(prompt_format)}); give both models the same `format`"
        )


def check_reads(policy: Policy, codec: HFCodec, prompt_format: PromptFormat, *, where: str) -> None:
    """Raises ConfigError if ids written by `policy` mean something else to the reward model `where`."""
    if difference := find_difference(policy, codec, prompt_format):
        name, theirs, ours = difference
        raise ConfigError(
            f"the reward model of {where} has another {name} ({ours}) than the model whose steps it would score "
            f"({theirs}); take one that was trained from a model of the same family"
        )


def load_scorer_for(
    policy: Policy, folder: Path, *, where: str, device: str, dtype: str, in_use: Trunk | None = None
) -> NativeScorer:
    """The reward model of a folder, to score what a policy writes, on the tensors of the model in use if it is an adapter
    on that. Raises DataError if there is none, ConfigError as `check_reads` and `load_scorer` do."""
    scorer = load_scorer(folder, device=device, dtype=dtype, in_use=in_use)
    home = find_home(folder, in_use)
    check_reads(policy, load_codec(home), load_format(home), where=where)
    return scorer


def find_difference(
    policy: Policy, codec: HFCodec, prompt_format: PromptFormat
) -> tuple[str, str, str] | None:
    """What ids depend on and differs: its name, the policy's, and the other's."""
    for name, theirs, ours in (
        ("tokenizer", policy.tokenizer, codec.hash_content(prompt_format.layout)),
        ("prompt format", policy.prompt_format, hash_format(prompt_format)),
    ):
        if theirs != ours:
            return name, theirs, ours
    return None
