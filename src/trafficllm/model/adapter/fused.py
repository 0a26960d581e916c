"""A LoRA layer's step in fewer passes over memory, for the time of training only.

PEFT computes `W x + scaling * B(A(x))` with a separate product, scaling and sum over the full output, and autograd keeps each. Here
the low-rank part is accumulated into the frozen product, forward and backward: same result to rounding, and the weights, names and
files stay PEFT's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class _LoraStep(torch.autograd.Function):
    """y = x W' + b + s (x A') B' for frozen W, b; gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        """Inputs: x [rows, in], weight [out, in], bias or None, A [r, in], B [out, r], scaling."""
        x, weight, bias, low, high, scaling = inputs
        inner = x @ low.t()
        out = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        out.addmm_(inner, high.t(), alpha=scaling)
        ctx.save_for_backward(x, weight, low, high, inner)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """Gradients in the order of the inputs; none for the frozen ones."""
        x, weight, low, high, inner = ctx.saved_tensors
        grad = grads[0]
        back = (grad @ high) * ctx.scaling
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x.addmm_(back, low)
        return grad_x, None, None, back.t() @ x, (grad.t() @ inner) * ctx.scaling, None


def _forward(layer: Any, name: str) -> Any:
    base, scaling = layer.base_layer, float(layer.scaling[name])

    def forward(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        low, high = layer.lora_A[name].weight, layer.lora_B[name].weight  # at each call: sharding swaps them
        flat = x.reshape(-1, x.shape[-1])
        out = _LoraStep.apply(flat, base.weight, base.bias, low, high, scaling)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]

    return forward


def _fits(layer: Any, name: str) -> bool:
    """Plain float32 LoRA without dropout, magnitudes, bias or merging on a torch Linear: all else keeps PEFT's own step."""
    return (
        type(layer.base_layer) is torch.nn.Linear
        and layer.active_adapters == [name]
        and not layer.merged
        and not layer.use_dora.get(name, False)
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_B[name].bias is None
        and not layer.base_layer.weight.requires_grad
        and layer.base_layer.weight.dtype == layer.lora_A[name].weight.dtype == torch.float32
    )


@contextlib.contextmanager
def fused(model: Any, name: str) -> Iterator[int]:
    """Within the block, LoRA layers that allow it run fused; yields how many."""
    from peft.tuners.lora import Linear

    changed = [module for module in model.modules() if isinstance(module, Linear) and _fits(module, name)]
    try:
        for layer in changed:
            layer.forward = _forward(layer, name)
        yield len(changed)
    finally:
        for layer in changed:
            del layer.forward
