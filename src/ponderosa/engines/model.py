"""What the engine needs to know about a transformers model, and how it borrows one for a forward pass.

A model qualifies if its attention goes through transformers' attention interface and everything it remembers
between tokens is keys and values; a probe compares cached with uncached logits and refuses the others by name.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ponderosa.engines.attention import ATTENTION_NAME, CachePass, RowAttention
from ponderosa.engines.kv_pages import KVPages
from ponderosa.errors import DataError
from ponderosa.ledger import compute_forward_flops, count_matrix_parameters

PROBE_LENGTH = 6

Run = Callable[[PreTrainedModel, Tensor, Tensor, CachePass | None], Tensor]
"""What a model says of new tokens, [R, L, ·]: of all of them, or of each row's last one. Without a pass it sees
nothing but them."""


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """long_rope_after: sequences longer than this use LongRoPE's long factors; None if frequencies never change."""

    long_rope_after: int | None
    flops_per_token: float


@contextmanager
def borrow_model(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, inference mode and cached attention for a block; afterwards all is as it was."""
    was_training = model.training
    implementation = model.config._attn_implementation
    if was_training:
        model.eval()
    model.config._attn_implementation = ATTENTION_NAME
    try:
        with torch.inference_mode():
            yield
    finally:
        model.config._attn_implementation = implementation
        if was_training:
            model.train()


def copy_model(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The same model with its parameters in another type; buffers (rotary frequencies) keep their precision."""
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(dtype)
    return copied


def profile_model(model: PreTrainedModel, max_context: int, run: Run) -> ModelProfile:
    """Look a model over, run as it will be. Raises DataError naming it if the engine cannot run it."""
    name = type(model).__name__
    long_rope_after = _find_rope_threshold(model, name)
    if not model._supports_attention_backend:
        raise DataError(
            f"{name} does not take its attention from transformers' attention interface, which the native "
            "engine needs; use a decoder such as Llama, Qwen, Phi-3, Mistral or Gemma"
        )
    cache = _probe(model, name, run)
    config = model.config.get_text_config()
    flops = compute_forward_flops(
        matrix_parameters=count_matrix_parameters(model),
        num_layers=len(cache.keys),
        width=config.num_attention_heads * cache.keys[0].shape[2],
        context=max_context / 2,
    )
    return ModelProfile(long_rope_after, flops)


def _find_rope_threshold(model: PreTrainedModel, name: str) -> int | None:
    """Positions up to which LongRoPE uses its short factors; None for frequencies that never change."""
    parameters: dict[str, Any] = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {str(parameters.get("rope_type"))} | {
        str(value.get("rope_type")) for value in parameters.values() if isinstance(value, dict)
    }
    if "dynamic" in kinds:
        raise DataError(
            f"{name} uses dynamic RoPE scaling, whose frequencies depend on the longest sequence in the batch; "
            "the native engine cannot batch it"
        )
    return int(parameters["original_max_position_embeddings"]) if "longrope" in kinds else None


def run_logits(
    model: PreTrainedModel, token_ids_RL: Tensor, positions_RL: Tensor, cache_pass: CachePass | None
) -> Tensor:
    """Logits of each row's last token, [R, 1, V]; the model must be borrowed."""
    logits: Tensor = model(
        input_ids=token_ids_RL,
        position_ids=positions_RL,
        use_cache=False,
        logits_to_keep=1,
        cache_pass=cache_pass,
    ).logits
    return logits


def run_hidden_states(
    model: PreTrainedModel, token_ids_RL: Tensor, positions_RL: Tensor, cache_pass: CachePass | None
) -> Tensor:
    """What a model's head reads of every token, [R, L, D]; the model must be borrowed."""
    states: Tensor = model.base_model(
        input_ids=token_ids_RL, position_ids=positions_RL, use_cache=False, cache_pass=cache_pass
    ).last_hidden_state
    return states


def _probe(model: PreTrainedModel, name: str, run: Run) -> KVPages:
    """A cache that has seen every layer, after checking that what the model says of a token that follows others in
    the cache is what it says of it after all of them."""
    device = model.device
    ids = torch.arange(1, PROBE_LENGTH + 1, device=device)[None] % model.config.get_text_config().vocab_size
    positions = torch.arange(PROBE_LENGTH, device=device)[None]
    pages = torch.ones_like(positions)
    cache = KVPages(dtype=model.dtype, device=device)
    cache.reserve(2)
    with borrow_model(model):
        for part in (slice(0, PROBE_LENGTH - 1), slice(PROBE_LENGTH - 1, PROBE_LENGTH)):
            where = positions[:, part]
            cache_pass = CachePass(cache, pages[:, part], where, RowAttention(pages[:, :1], where))
            try:
                cached = run(model, ids[:, part], where, cache_pass)[:, -1]
            except TypeError as error:
                raise DataError(f"{name} cannot run in the native engine: {error}") from error
        model.config._attn_implementation = "eager"
        plain = run(model, ids, positions, None)[:, -1]
    tolerance = 1e-3 if plain.dtype == torch.float32 else 0.1
    if not torch.allclose(cached.float(), plain.float(), rtol=tolerance, atol=tolerance * float(plain.std())):
        raise DataError(
            f"{name} remembers more than keys and values between tokens (cached outputs differ from its own); "
            "the native engine cannot run it"
        )
    return cache
