"""What a model puts on top of its decoder: logits of the next token, or one score of the text so far."""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ponderosa.identity import derive_seed
from ponderosa.lora import add_adapters, build_classifier, build_shared_classifier

HEAD_DEVIATION = 1e-3
"""Of a new score head's weights: scores begin near 0, where no two steps are preferred to one another."""


class OutputHead(NamedTuple):
    """is_score: one number a token, read at the token itself; otherwise logits, read one token before their target."""

    module: Any
    is_score: bool


def find_output_head(model: PreTrainedModel) -> OutputHead:
    """The head of a causal language model or of a sequence classifier."""
    lm_head = model.get_output_embeddings()
    return OutputHead(model.score, True) if lm_head is None else OutputHead(lm_head, False)


def build_reward_model(policy: PreTrainedModel, *, pad_token_id: int | None, seed: int) -> PreTrainedModel:
    """transformers' sequence classifier with one label, on a copy of the policy's decoder; its head is drawn anew.

    pad_token_id: what transformers' own forward pass takes for padding behind a sequence. Raises DataError for an
    architecture that has no classifier.
    """
    config = type(policy.config).from_dict(policy.config.to_dict())
    config.num_labels = 1
    config.pad_token_id = pad_token_id
    with torch.random.fork_rng(devices=[]):
        model = build_classifier(config, type(policy).__name__)
    model.to(dtype=policy.dtype)
    model.get_decoder().load_state_dict(policy.get_decoder().state_dict())
    _draw_head(model, seed)
    return model.to(policy.device).eval()


def build_shared_reward_model(
    policy: PreTrainedModel, *, rank: int, alpha: float, pad_token_id: int | None, seed: int
) -> PreTrainedModel:
    """As `build_reward_model`, but on the policy's own tensors, frozen: adapters of this rank and the head are all there is
    to train. Raises DataError also for a decoder that cannot be adapted."""
    model = build_shared_classifier(policy, pad_token_id=pad_token_id)
    add_adapters(model, rank, alpha, torch.Generator().manual_seed(derive_seed("adapters", seed)))
    _draw_head(model, seed)
    return model.eval()


@torch.no_grad()
def _draw_head(model: PreTrainedModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(derive_seed("score head", seed))
    weight: nn.Parameter = model.score.weight
    weight.copy_(HEAD_DEVIATION * torch.randn(weight.shape, generator=generator))
