"""Recipes small enough to run in a test, and a checkpoint of somebody else's."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

from ponderosa.config import parse_config
from ponderosa.pipeline import RunOptions, run_recipe
from ponderosa.planning import Recipe
from ponderosa.training.tokenizer import train_tokenizer

FAMILY: dict[str, Any] = {"relations": ["more", "fewer", "sum"], "max_operations": 2, "max_value": 100}
PROBLEMS = {
    "name": "problems",
    "use": "solutions",
    "sources": [{"task": "quantities", "count": 40, "options": FAMILY}],
}
TEXTBOOK = {
    "name": "textbook",
    "use": "textbook",
    "chapters": [
        {
            "parts": [
                {"kind": "pages", "documents": 20, "solutions": "problems"},
                {"kind": "copying", "documents": 5},
                {"kind": "arithmetic", "documents": 5},
            ]
        }
    ],
}
TOKENIZER = {"name": "tokenizer", "use": "tokenizer", "vocab_size": 384, "solutions": ["problems"]}
SHAPE = {"num_layers": 1, "width": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_width": 16}
BASE = {"name": "base", "use": "pretrain", "model": {**SHAPE, "context": 512}}
MIDTRAINED = {"name": "midtrained", "use": "midtrain", "data": {"solutions": ["problems"]}}
SFT = {"name": "sft", "use": "sft", "data": {"solutions": ["problems"], "limit": 10}}
SUITES = [{"suite": "quantities", "limit": 4, "options": FAMILY}]
LENGTHS = {"max_tokens": 12, "num_slots": 4}
EVALUATE_BASE = {"name": "evaluate-base", "use": "evaluate", "model": "base", "suites": SUITES, **LENGTHS}
EVALUATE_SFT = {
    "name": "evaluate-sft",
    "use": "evaluate",
    "model": "sft",
    "compare_to": "evaluate-base",
    "suites": SUITES,
    **LENGTHS,
}
GROWN = (PROBLEMS, TEXTBOOK, TOKENIZER, BASE)
WHOLE = (*GROWN, MIDTRAINED, SFT, EVALUATE_BASE, EVALUATE_SFT)
OPTIONS = RunOptions(device="cpu", workers=1)


def build_recipe(*stages: Mapping[str, Any], **changes: Any) -> Recipe:
    return parse_config(Recipe, {"name": "tiny", "stages": stages, **changes}, where="test")


def run_tiny(out: Path, *stages: Mapping[str, Any], base: Path | None = None, **changes: Any) -> Path:
    return run_recipe(build_recipe(*stages, **changes), base or out.parent, out, OPTIONS)


def find_stage(out: Path, name: str) -> Path:
    """The folder of the stage of that name; there must be one."""
    (folder,) = [path for path in (out / "stages").iterdir() if path.name.rpartition("-")[0] == name]
    return folder


CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "factor": 128.0,
    "original_max_position_embeddings": 16,
}
FOREIGN = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "phi3": (
        partial(Phi3Config, rope_parameters=LONG_ROPE, original_max_position_embeddings=16),
        Phi3ForCausalLM,
    ),
}


def save_foreign_model(folder: Path, architecture: str = "qwen2") -> Path:
    """A checkpoint with random weights, a chat template and no prompt format of ours."""
    texts = [f"Tom has {n} apples. Ana has {n + 3} more apples than Tom." for n in range(40)]
    tokenizer = train_tokenizer(texts, 384)
    tokenizer.chat_template = CHAT_TEMPLATE
    config_class, model_class = FOREIGN[architecture]
    config = config_class(
        vocab_size=384,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
