"""Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685) and reward models that share a policy's tensors.

A linear layer W x becomes W x + (alpha / r) B A x, where W stays as it is, A is drawn at random and B begins at 0. Every
linear layer of the decoder is adapted, whatever an architecture calls them. Names are PEFT's, so that what is saved
(`adapter_directory`) can be read by it. Deliberately absent: dropout, biases, and merging, since W belongs to others.

Legend: I inputs and O outputs of a layer, r rank.
"""

import copy

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from ponderosa.errors import DataError


class LoraLinear(nn.Module):
    """A linear layer that stays as it is, and its adapter: A [r, I], B [O, r]. [..., I] in, [..., O] out."""

    def __init__(self, base_layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        weight = base_layer.weight
        self.base_layer = base_layer
        self.lora_A = _build_linear(weight.new_zeros(rank, base_layer.in_features))
        self.lora_B = _build_linear(weight.new_zeros(base_layer.out_features, rank))
        self.scaling = alpha / rank

    def forward(self, states: Tensor) -> Tensor:
        adapted: Tensor = self.base_layer(states) + self.scaling * self.lora_B(self.lora_A(states))
        return adapted


def build_shared_classifier(policy: PreTrainedModel, *, pad_token_id: int | None) -> PreTrainedModel:
    """transformers' sequence classifier with one label, whose decoder holds the policy's own tensors, frozen; the policy
    is left as it is. Its score head [1, D] is zero.

    Modules are copied, since adapters take the place of some; what they hold is not. pad_token_id: what transformers' own
    forward pass takes for padding behind a sequence. Raises DataError for an architecture that has no classifier.
    """
    shared = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in policy.parameters()}
    shared |= {id(one): one for one in policy.buffers()}
    decoder = copy.deepcopy(policy.get_decoder(), shared)
    decoder.config.num_labels = 1
    decoder.config.pad_token_id = pad_token_id
    with torch.device("meta"):
        model = build_classifier(decoder.config, type(policy).__name__)
    setattr(model, model.base_model_prefix, decoder)
    width = model.score.in_features
    model.score = _build_linear(torch.zeros(1, width, device=policy.device, dtype=policy.dtype))
    return model.eval()


def _build_linear(weight: Tensor) -> nn.Linear:
    """A linear layer of this weight; torch's own would draw one from the global generator."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight)
    return linear


def build_classifier(config: object, name: str) -> PreTrainedModel:
    """transformers' sequence classifier of a configuration, its weights drawn anew. Raises DataError, calling the policy by
    `name`, for an architecture that has none."""
    try:
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise DataError(
            f"{name} cannot become a reward model: transformers has no sequence classifier of its architecture; begin "
            "with a Llama, Qwen, Phi-3, Mistral or Gemma"
        ) from error
    return model


def add_adapters(model: PreTrainedModel, rank: int, alpha: float, generator: torch.Generator) -> None:
    """Adapt every linear layer of the decoder in place; rank 0 adapts none.

    A is drawn as in the reference implementation, U(-1/√I, 1/√I), B is 0: outputs stay what they are. Raises DataError if
    there is nothing to adapt.
    """
    if rank == 0:
        return
    decoder = model.get_decoder()
    linears = find_linears(decoder)
    if not linears:
        raise DataError(
            f"{type(model).__name__} has no linear layers that could be adapted; train with trunk: separate, or the "
            "score head alone with lora_rank: 0"
        )
    for name, linear in linears.items():
        adapted = LoraLinear(linear, rank, alpha)
        weight = torch.empty(adapted.lora_A.weight.shape)
        nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)
        adapted.lora_A.weight.data.copy_(weight)
        parent, _, leaf = name.rpartition(".")
        setattr(decoder.get_submodule(parent), leaf, adapted)


def find_linears(decoder: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a decoder by name."""
    return {name: module for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}


def find_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name that training moves: all of a model, or its adapters and score head."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
