"""Float32 linear layers on a CPU through oneDNN, on weights packed for it.

Torch sends float32 products to MKL, which on AMD processors runs at half of oneDNN's speed (100 against
200 GFLOP/s on one core, 128 rows); packing saves a further fifth. Only plain `nn.Linear` layers without hooks are
lent this, for the length of a `with` block under inference mode. Results differ by rounding alone. The packed
weights are a copy: `forget` them when the weights change.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PACKED_FOR_ROWS = 128
"""The batch size the packing is laid out for; other sizes work and gain nearly as much."""


class PackedLinears:
    """The layers of a model that oneDNN can take over: float32, on a CPU, exactly `nn.Linear`; maybe none."""

    def __init__(self, model: nn.Module) -> None:
        linears = [module for module in model.modules() if type(module) is nn.Linear]
        self._linears = [linear for linear in linears if _can_pack(linear)]
        self._forwards: list[Callable[[Tensor], Tensor]] = []

    def forget(self) -> None:
        """The weights have changed, or are about to."""
        self._forwards.clear()

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Run these layers through oneDNN inside the block."""
        if not self._forwards:
            self._forwards = [_build_forward(linear) for linear in self._linears]
        for linear, forward in zip(self._linears, self._forwards, strict=True):
            vars(linear)["forward"] = forward
        try:
            yield
        finally:
            for linear in self._linears:
                del vars(linear)["forward"]


def _can_pack(linear: nn.Linear) -> bool:
    has_hooks = bool(linear._forward_hooks or linear._forward_pre_hooks)
    weight = linear.weight
    return (
        hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and not has_hooks
    )


def _build_forward(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    apply = torch.ops.mkldnn._linear_pointwise.default
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_FOR_ROWS)
    bias = linear.bias

    def forward(states: Tensor) -> Tensor:
        product: Tensor = apply(states, weight, bias, "none", [], "")
        return product

    return forward
