"""Optimizers and learning-rate schedules.

AdamW (Loshchilov and Hutter, arXiv 1711.05101) for everything, or Muon (Jordan et al. 2024,
kellerjordan.github.io/posts/muon) for the hidden matrices with AdamW for embeddings, output head and norms.
State is a flat mapping of names to tensors, so that checkpoints need no pickle.

Legend: S matrices of one shape, R rows, C columns.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ponderosa.config import Config
from ponderosa.errors import DataError
from ponderosa.lora import find_trained
from ponderosa.training.output_head import find_output_head

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients with the steepest slope at zero; singular values land in about [0.7, 1.2] (Jordan 2024)."""


class OptimizerConfig(Config):
    """How parameters follow their gradients."""

    name: Literal["adamw", "muon"] = "muon"
    """muon moves hidden matrices by orthogonalised momentum, and the rest by adamw."""
    learning_rate: float = 3e-3
    """Peak AdamW step size (with muon: for embeddings, output head and norms)."""
    muon_learning_rate: float = 0.02
    """Peak Muon step size for hidden matrices; not used by adamw."""
    muon_momentum: float = 0.95
    """Nesterov momentum of Muon."""
    beta1: float = 0.9
    """AdamW's decay of the gradient average."""
    beta2: float = 0.95
    """AdamW's decay of the squared-gradient average."""
    eps: float = 1e-8
    """AdamW's guard against division by zero."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, in units of the step size; norms and embeddings do not decay."""


class ScheduleConfig(Config):
    """How step sizes change over a run."""

    name: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warm-up, then stable and decay (wsd), a half cosine, or constant."""
    warmup_frac: float = 0.02
    """Share of the steps spent rising linearly from zero."""
    decay_frac: float = 0.2
    """Share of the steps wsd spends falling linearly at the end; not used by the others."""
    final_frac: float = 0.0
    """Where wsd and cosine end, as a share of the peak."""


def compute_lr_frac(schedule: ScheduleConfig, step: int, num_steps: int) -> float:
    """The share of the peak step size at a step (0-based). WSD: MiniCPM, arXiv 2404.06395, section 4."""
    num_warmup = math.ceil(schedule.warmup_frac * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "cosine":
        done_frac = (step - num_warmup) / max(1, num_steps - num_warmup)
        fall_frac = (1 - math.cos(math.pi * done_frac)) / 2
    else:
        num_decay = math.ceil(schedule.decay_frac * num_steps)
        fall_frac = max(0.0, (step + 1 - (num_steps - num_decay)) / num_decay) if num_decay else 0.0
    return 1.0 - (1.0 - schedule.final_frac) * fall_frac


def orthogonalize(matrices_SRC: Tensor, *, num_iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, by a quintic Newton–Schulz iteration (Jordan 2024).

    Runs in bfloat16: the iteration contracts rounding errors, and the update needs no more than two digits. A zero
    matrix stays zero.
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices_SRC.shape[-2] > matrices_SRC.shape[-1]
    x = (matrices_SRC.mT if is_tall else matrices_SRC).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices_SRC.dtype)


class Muon:
    """Momentum, orthogonalised. Matrices of one shape are updated together."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._config = config
        self._momentum: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._by_shape: dict[torch.Size, dict[str, nn.Parameter]] = defaultdict(dict)
        for name, parameter in parameters.items():
            self._by_shape[parameter.shape][name] = parameter

    @torch.no_grad()
    def step(self, lr_frac: float) -> None:
        config = self._config
        lr = lr_frac * config.muon_learning_rate
        for (num_rows, num_columns), group in self._by_shape.items():
            parameters: list[Tensor] = list(group.values())
            gradients = [_gradient(parameter) for parameter in group.values()]
            momentum = [self._momentum[name] for name in group]
            torch._foreach_lerp_(momentum, gradients, 1 - config.muon_momentum)
            nesterov = torch._foreach_lerp(gradients, momentum, config.muon_momentum)
            updates = orthogonalize(torch.stack(nesterov)).unbind()
            if config.weight_decay:
                torch._foreach_mul_(parameters, 1 - lr * config.weight_decay)
            # A tall matrix's update would otherwise be weaker per output than a square one's.
            torch._foreach_add_(parameters, updates, alpha=-lr * max(1.0, num_rows / num_columns) ** 0.5)

    def state(self) -> dict[str, Tensor]:
        return {f"muon.momentum.{name}": tensor for name, tensor in self._momentum.items()}


class AdamW:
    """AdamW in torch's fused kernel, its state in named tensors."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._config = config
        self._parameters = dict(parameters)
        self._mean = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._square = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._steps = {name: torch.zeros((), device=p.device) for name, p in parameters.items()}
        self._decays = {name: p.ndim >= 2 and "embed" not in name for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, lr_frac: float) -> None:
        for decays in (False, True):
            names = [name for name in self._parameters if self._decays[name] is decays]
            if not names:
                continue
            torch._foreach_add_([self._steps[name] for name in names], 1)
            torch._fused_adamw_(
                [self._parameters[name] for name in names],
                [_gradient(self._parameters[name]) for name in names],
                [self._mean[name] for name in names],
                [self._square[name] for name in names],
                [],
                [self._steps[name] for name in names],
                lr=lr_frac * self._config.learning_rate,
                beta1=self._config.beta1,
                beta2=self._config.beta2,
                weight_decay=self._config.weight_decay if decays else 0.0,
                eps=self._config.eps,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        kinds = {"mean": self._mean, "square": self._square, "steps": self._steps}
        return {
            f"adamw.{kind}.{name}": tensor for kind, named in kinds.items() for name, tensor in named.items()
        }


class Optimizer:
    """The optimizer of a model: one step for all its parameters, and its state for checkpoints."""

    def __init__(self, model: PreTrainedModel, config: OptimizerConfig) -> None:
        parameters = find_trained(model)
        hidden = select_hidden_matrices(model) if config.name == "muon" else {}
        rest = {name: p for name, p in parameters.items() if name not in hidden}
        self.peak_lr = config.learning_rate if config.name == "adamw" else config.muon_learning_rate
        self._parts = (Muon(hidden, config), AdamW(rest, config))

    def step(self, lr_frac: float) -> None:
        """Move every parameter against its gradient, at a share of the peak step sizes."""
        for part in self._parts:
            part.step(lr_frac)

    def state(self) -> dict[str, Tensor]:
        """Live state tensors by name."""
        return {name: tensor for part in self._parts for name, tensor in part.state().items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved state. Raises DataError if it belongs to another model or optimizer."""
        state = self.state()
        if state.keys() != tensors.keys():
            raise DataError("the checkpoint belongs to another model or optimizer; remove it to start over")
        for name, tensor in state.items():
            tensor.copy_(tensors[name])


def select_hidden_matrices(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The matrices inside decoder layers: everything two-dimensional but embeddings and output head."""
    outer = {id(model.get_input_embeddings().weight), id(find_output_head(model).module.weight)}
    return {
        name: parameter
        for name, parameter in find_trained(model).items()
        if parameter.ndim == 2 and id(parameter) not in outer
    }


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
