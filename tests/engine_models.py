"""Tiny models with random weights, one per architecture, and a codec for them."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ponderosa.engines.native import NativeEngine
from ponderosa.engines.protocol import GenerateRequest, Generation
from ponderosa.formats import PromptFormat

VOCAB = 96
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "phi3": (Phi3Config, Phi3ForCausalLM, {}),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_implementation": "eager", **SLIDING},
    ),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"head_dim": 8, "query_pre_attn_scalar": 8, **SLIDING}),
}
LONGROPE = {
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 24,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 24,
        "factor": 64 / 24,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
    },
}


def build_tiny_model(architecture: str, **overrides: Any) -> PreTrainedModel:
    config_class, model_class, extra = ARCHITECTURES[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = model_class(config_class(**{**SHAPE, **extra, **overrides}))
    return model.eval()


class NumberCodec:
    """Token ids as letters: 3 is a, 4 is b, and so on."""

    eos_id = 2
    eos_ids = frozenset({2})
    vocab_size = VOCAB

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 3 for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(token_id - 3 + ord("a")) for token_id in token_ids)

    def encode_prompt(self, prompt_format: PromptFormat, question: str) -> list[int]:
        return self.encode(question)


def build_engine(model: PreTrainedModel, **options: Any) -> NativeEngine:
    settings = {"model_id": "tiny", "num_slots": 8, "max_context": 192, **options}
    return NativeEngine(model, NumberCodec(), **settings)


def run_all(engine: NativeEngine, requests: Sequence[GenerateRequest]) -> list[Generation]:
    """The replies to requests submitted at once, in order."""
    tickets = [engine.submit(request) for request in requests]
    replies: dict[int, Generation] = {}
    while engine.num_pending:
        replies.update(engine.tick())
    return [replies[ticket] for ticket in tickets]


def draw_prompts(count: int, *, low: int = 3, high: int = 40, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (count,), generator=generator).tolist()
    return [tuple(torch.randint(3, VOCAB, (n,), generator=generator).tolist()) for n in lengths]
