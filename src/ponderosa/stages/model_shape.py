"""As much of a model as decides what it costs: how many parameters a token passes, and how far it looks back.

Known before there are weights: from a directory's config.json, from the sizes a model is to be grown with, or from
published ones. FLOPs by the formulas of `ledger`, as the trainer and the engine count them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import AutoConfig, AutoModelForCausalLM

from ponderosa.config import Config
from ponderosa.errors import DataError
from ponderosa.ledger import compute_forward_flops, count_matrix_parameters
from ponderosa.lora import find_linears
from ponderosa.training.model import ModelConfig
from ponderosa.training.tokenizer import pad_vocab_size


@dataclass(frozen=True, slots=True)
class ModelShape:
    """matrix_parameters: as `ledger.count_matrix_parameters` has them. attention_width: query heads times their size.
    long_rope_after: sequences that grow past this are computed again from their start; None if none are. adapter_parameters:
    of an adapter of rank 1, the inputs and outputs of all the decoder's linear layers."""

    matrix_parameters: int
    num_layers: int
    width: int
    attention_width: int
    max_context: int
    long_rope_after: int | None = None
    adapter_parameters: int = 0

    def add_adapters(self, rank: int) -> "ModelShape":
        """The shape with low-rank adapters on every linear layer of the decoder."""
        return replace(self, matrix_parameters=self.matrix_parameters + rank * self.adapter_parameters)

    def compute_document_flops(self, length: float, *, prefix: float = 0.0) -> float:
        """A forward pass over a document of `length` tokens that continues `prefix` tokens."""
        context = prefix + (length + 1) / 2
        return length * compute_forward_flops(
            matrix_parameters=self.matrix_parameters,
            num_layers=self.num_layers,
            width=self.width,
            context=context,
        )

    def compute_attempt_flops(self, length: float) -> float:
        """Sampling an attempt of `length` tokens, prompt included, as the engine counts it: every token as if it saw
        half of the longest context."""
        is_computed_again = self.long_rope_after is not None and length > self.long_rope_after
        num_passes = length + (self.long_rope_after or 0) * is_computed_again
        return num_passes * compute_forward_flops(
            matrix_parameters=self.matrix_parameters,
            num_layers=self.num_layers,
            width=self.attention_width,
            context=self.max_context / 2,
        )


class DecoderSizes(Config):
    """The published sizes of a decoder with gated hidden layers (Llama, Qwen, Phi-3 and their kin)."""

    num_layers: int = Field(description="decoder layers")
    width: int = Field(description="size of the residual stream")
    num_heads: int = Field(description="query heads")
    num_kv_heads: int = Field(description="key and value heads")
    head_dim: int = Field(description="size of one head")
    mlp_width: int = Field(description="size of the gated hidden layer")
    vocab_size: int = Field(description="rows of the output head")
    context: int = Field(description="longest sequence, in tokens")
    long_rope_after: int | None = Field(
        None, description="LongRoPE: sequences longer than this use the long factors"
    )

    def build_shape(self) -> ModelShape:
        heads = (self.num_heads + self.num_kv_heads) * self.head_dim
        attention = 2 * self.width * heads
        layer = attention + 3 * self.width * self.mlp_width
        return ModelShape(
            matrix_parameters=self.num_layers * layer + self.width * self.vocab_size,
            num_layers=self.num_layers,
            width=self.width,
            attention_width=self.num_heads * self.head_dim,
            max_context=self.context,
            long_rope_after=self.long_rope_after,
            adapter_parameters=self.num_layers * (7 * self.width + 2 * heads + 3 * self.mlp_width),
        )


def plan_grown_shape(model: ModelConfig, vocab_size: int) -> ModelShape:
    """The shape of a model that is to be grown for a tokenizer of so many tokens."""
    sizes = model.model_dump(include=set(DecoderSizes.model_fields))
    return DecoderSizes(**sizes, vocab_size=pad_vocab_size(vocab_size)).build_shape()


def read_shape(folder: Path) -> ModelShape:
    """The shape of a model directory, from its config.json; no weights are read. Raises DataError if it has none."""
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"the model in {folder} does not load: {error}") from error
    text = config.get_text_config()
    num_heads = int(text.num_attention_heads)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    rope = getattr(text, "rope_parameters", None) or {}
    return ModelShape(
        matrix_parameters=count_matrix_parameters(model),
        num_layers=int(text.num_hidden_layers),
        width=int(text.hidden_size),
        attention_width=num_heads * int(head_dim),
        max_context=int(text.max_position_embeddings),
        long_rope_after=rope.get("original_max_position_embeddings")
        if rope.get("rope_type") == "longrope"
        else None,
        adapter_parameters=sum(
            linear.in_features + linear.out_features for linear in find_linears(model.get_decoder()).values()
        ),
    )
