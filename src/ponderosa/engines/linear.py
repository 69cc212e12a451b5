"""Float32 linear layers on a CPU through oneDNN instead of the default BLAS.

Torch sends float32 products to MKL, which on AMD processors runs at half of oneDNN's speed (100 against
200 GFLOP/s on one core, 128 rows). The weights stay where they are; the results differ by rounding only.
Applies to plain `nn.Linear` layers without hooks, for the length of a `with` block, under inference mode.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def find_linears(model: nn.Module) -> list[nn.Linear]:
    """The layers that oneDNN can take over: float32, on a CPU, exactly `nn.Linear`."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return []
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    return [
        module
        for module in linears
        if module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and not module._forward_hooks
        and not module._forward_pre_hooks
    ]


@contextmanager
def accelerate_linears(linears: list[nn.Linear]) -> Iterator[None]:
    """Run these layers through oneDNN inside the block."""
    for linear in linears:
        linear.forward = _build_forward(linear)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward


def _build_forward(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    apply = torch.ops.mkldnn._linear_pointwise.default
    weight, bias = linear.weight, linear.bias

    def forward(states: Tensor) -> Tensor:
        product: Tensor = apply(states, weight, bias, "none", [], "")
        return product

    return forward
