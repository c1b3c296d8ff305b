"""Shared code for hand-written backward passes, and when to use the formula instead."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from bam import private

_PLAIN = (Tensor, nn.Parameter)


def is_ordinary(tensors: Sequence[Tensor | None]) -> bool:
    """Whether this is plain eager mode, where hand-written backward passes are used.

    Compilers, exporters and tracers do better with the formula. `torch.func` and forward-mode differentiation need it.
    So do Tensor subclasses, the meta device (where networks are counted), and devices on which the hand-written passes
    are untested.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or private.functorch_is_active():
        return False
    for t in tensors:  # a loop, because `any` with a generator costs microseconds
        if t is not None and (type(t) not in _PLAIN or t.device.type not in ("cpu", "cuda") or has_tangent(t)):
            return False
    return True


def has_tangent(tensor: Tensor) -> bool:
    """Whether this tensor carries a tangent for forward-mode differentiation."""
    return private.forward_mode_is_active() and forward_ad.unpack_dual(tensor).tangent is not None


def needs_gradient(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd records what is computed from these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def wants_formula(*gradients: Tensor | None) -> bool:
    """Whether this backward pass will itself be differentiated, or runs on a batch of gradients."""
    present = [g for g in gradients if g is not None]
    batched = private.functorch_is_active() or any(map(private.is_batched_by_autograd, present))
    return torch.is_grad_enabled() or batched or any(map(has_tangent, present))


def gradients_of_formula(
    formula: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Compute the gradients of `formula(*inputs)` by autograd from the gradients of its outputs.

    The result is differentiable if grad mode is on.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases stop autograd at the inputs, even if one input was computed from another.
        aliases = [None if t is None else t.view_as(t) for t in inputs]
        outputs = formula(*aliases)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    pairs = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
    results = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            [t for t, need in zip(aliases, needed, strict=True) if t is not None and need],
            [gradient for _, gradient in pairs],
            create_graph=differentiable,
            allow_unused=True,
        )
    )
    return [next(results) if need else None for need in needed]


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a Function's backward compute in the types of its tensors, even under autocast."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor | None) -> Any:
        device_type = next((gradient.device.type for gradient in gradients if gradient is not None), "cpu")
        with torch.autocast(device_type, enabled=False):
            return backward(ctx, *gradients)

    return wrapped
