"""Stock Hugging Face decoders, built from nothing.

No model code of our own: a grown model is a Qwen3 or Llama directory that transformers, vLLM and llama.cpp load
unchanged (`ponderosa.model_directory`).
"""

from typing import Any, Literal

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ponderosa.config import Config
from ponderosa.errors import ConfigError
from ponderosa.identity import derive_seed
from ponderosa.training.tokenizer import pad_vocab_size

ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


class ModelConfig(Config):
    """The shape of a model grown from nothing."""

    architecture: Literal["qwen3", "llama"] = "qwen3"
    """Stock architecture: qwen3 normalises queries and keys, llama does not."""
    num_layers: int = 4
    """Decoder layers."""
    width: int = 192
    """Size of the residual stream."""
    num_heads: int = 6
    """Query heads."""
    num_kv_heads: int = 2
    """Key and value heads; divides num_heads."""
    head_dim: int = 32
    """Size of one head."""
    mlp_width: int = 512
    """Size of the gated hidden layer."""
    context: int = 1024
    """Longest sequence the model is meant for, in tokens."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies."""
    tie_embeddings: bool = True
    """Use the token embedding as the output head too."""


def build_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A freshly initialised model for a tokenizer: normal weights of deviation 0.02, output projections of each
    residual branch scaled down by sqrt(2 L) (GPT-2, Radford et al. 2019, section 2.3).

    Raises ConfigError if the heads do not divide.
    """
    if config.num_heads % config.num_kv_heads:
        raise ConfigError(
            f"num_kv_heads {config.num_kv_heads} does not divide num_heads {config.num_heads}; "
            "choose a divisor so that each key head serves the same number of query heads"
        )
    config_class, model_class = ARCHITECTURES[config.architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("model", seed))
        model: PreTrainedModel = model_class(_stock_config(config, config_class, tokenizer))
        _scale_residual_outputs(model, config.num_layers)
    model.to(dtype)
    return model


def _stock_config(config: ModelConfig, config_class: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    return config_class(
        vocab_size=pad_vocab_size(len(tokenizer)),
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_embeddings,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )


@torch.no_grad()
def _scale_residual_outputs(model: PreTrainedModel, num_layers: int) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.mul_((2 * num_layers) ** -0.5)
