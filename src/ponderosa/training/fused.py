"""The arithmetic between matrix products, in few passes over memory.

In a small model on a CPU, two thirds of a stock training step goes to elementwise work: each normalisation is a dozen
kernels, its gradient two dozen. Here each is one autograd function with a hand-written gradient. `fused_layers`
lends them to the stock modules of a model for the length of a block; parameters, names and results stay those of
the stock modules, up to rounding.

Legend: N tokens, D width, F gated width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

RMS_NORM_CLASSES = frozenset({"Qwen3RMSNorm", "Qwen2RMSNorm", "LlamaRMSNorm", "MistralRMSNorm"})
GATED_MLP_CLASSES = frozenset({"Qwen3MLP", "Qwen2MLP", "LlamaMLP", "MistralMLP"})


class RmsNorm(torch.autograd.Function):
    """y = w x / rms(x), with rms(x)² = mean(x²) + eps (Zhang and Sennrich, arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=torch.float32)
        inverse_rms_N1 = torch.rsqrt(norm_N1.square_().div_(x_ND.shape[-1]).add_(eps))
        unit_ND = x_ND * inverse_rms_N1
        ctx.save_for_backward(unit_ND, inverse_rms_N1, weight_D)
        ctx.dtype = x_ND.dtype
        return (unit_ND * weight_D).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        unit_ND, inverse_rms_N1, weight_D = ctx.saved_tensors
        along_ND = grad_ND * unit_ND
        grad_weight_D = along_ND.flatten(0, -2).sum(0).to(weight_D.dtype)
        weight_D = weight_D.float()
        # The part of the gradient along x itself cannot change its direction.
        mean_N1 = (along_ND @ weight_D)[..., None].div_(weight_D.shape[0])
        grad_x_ND = (grad_ND * weight_D).addcmul_(unit_ND, mean_N1, value=-1).mul_(inverse_rms_N1)
        return grad_x_ND.to(ctx.dtype), grad_weight_D, None, None


class GatedSilu(torch.autograd.Function):
    """y = silu(gate) · up (SwiGLU; Shazeer, arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        silu_NF = functional.silu(gate_NF)
        ctx.save_for_backward(gate_NF, up_NF, silu_NF)
        return silu_NF * up_NF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NF: Tensor) -> tuple[Tensor, Tensor]:
        gate_NF, up_NF, silu_NF = ctx.saved_tensors
        grad_gate_NF = torch.ops.aten.silu_backward(grad_NF * up_NF, gate_NF)
        return grad_gate_NF, grad_NF * silu_NF


def _rms_norm_forward(module: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        )
        return RmsNorm.apply(x, module.weight, module.variance_epsilon, dtype)  # type: ignore[no-untyped-call, no-any-return]

    return forward


def _gated_mlp_forward(module: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return module.down_proj(GatedSilu.apply(module.gate_proj(x), module.up_proj(x)))  # type: ignore[no-untyped-call, no-any-return]

    return forward


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[None]:
    """Let the known norms and gated layers of a model run fused for the length of a block; others run as they are."""
    lent: list[Any] = []
    module: Any
    for module in model.modules():
        name = type(module).__name__
        if "forward" in vars(module):
            continue  # lent already, by a block around this one
        if name in RMS_NORM_CLASSES:
            module.forward = _rms_norm_forward(module)
        elif name in GATED_MLP_CLASSES and module.config.hidden_act == "silu":
            module.forward = _gated_mlp_forward(module)
        else:
            continue
        lent.append(module)
    try:
        yield
    finally:
        for module in lent:
            del module.forward
