"""Hand-written backward passes for ordinary eager training, and when they must give way to the formula itself."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_ordinary(tensors: Sequence[Tensor | None]) -> bool:
    """Whether these tensors are computed with in plain eager mode, where a Function's backward runs as it is written.

    Compilers, exporters and tracers know better than such a Function; `torch.func` and forward-mode differentiation
    want the formula, and so do subclasses of Tensor, the meta device, where networks are counted, and devices on which
    nobody has tried it.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or any(type(t) not in (Tensor, nn.Parameter) for t in tensors if t is not None)
        or any(t.device.type not in ("cpu", "cuda") or _has_tangent(t) for t in tensors if t is not None)
    )


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None


def wants_formula(*gradients: Tensor | None) -> bool:
    """In a backward pass: whether it will itself be differentiated, or runs for many gradients at once."""
    legacy = torch._C._functorch.is_legacy_batchedtensor  # of autograd.grad(..., is_grads_batched=True)
    many = torch._C._are_functorch_transforms_active() or any(legacy(g) for g in gradients if g is not None)
    return torch.is_grad_enabled() or many


def gradients_of_formula(
    formula: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """What autograd makes of `formula(*inputs)` for the gradients of its outputs: differentiable if grad mode is on."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: one input may be computed from another, a path that is not the formula's.
        own = [None if t is None else t.view_as(t) for t in inputs]
        outputs = formula(*own)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    told = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None]
    wanted = [t for t, need in zip(own, needed, strict=True) if t is not None and need]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in told],
            wanted,
            [gradient for _, gradient in told],
            create_graph=differentiable,
            allow_unused=True,
        )
    )
    return [next(found) if need else None for need in needed]


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A Function's backward that computes in the types of its tensors, also where it is called under autocast."""

    @functools.wraps(backward)
    def computed(ctx: Any, *gradients: Tensor | None) -> Any:
        kind = next((gradient.device.type for gradient in gradients if gradient is not None), "cpu")
        with torch.autocast(kind, enabled=False):
            return backward(ctx, *gradients)

    return computed
