"""The gate compiled by torch.compile, within a network that is not: one kernel per pass over F.

The map M(F) is not kept for the backward pass. The first call compiles for some seconds. Sizes are dynamic, but a size
of 1, another type of numbers, layout or option compiles again, up to torch's limit of eight times; what exceeds it runs
as the formula.
"""

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bam import private
from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, wants_formula, without_autocast
from bam.kernels.layout import flat, is_channels_last, unflat


def gate(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """`bam.kernels.gate`, compiled; features are contiguous in either layout.

    Raises:
        RuntimeError: if nothing can be compiled here.
    """
    others = (None if t is None else t.to(features.dtype) for t in (channel_logits, spatial_logits, scale))
    return _Gate.apply(combine, features, *others)


class _Gate(torch.autograd.Function):
    """The formula on flattened maps, and its gradients."""

    @staticmethod
    def forward(ctx: Any, combine: str, features: Tensor, *others: Tensor | None) -> Tensor:
        ctx.combine = combine
        ctx.save_for_backward(features, *others)
        output = _run(formula.gate, *_flattened(features, others), combine)
        return unflat(output, features.shape, is_channels_last(features))

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if wants_formula(gradient):
            return None, *gradients_of_formula(partial(formula.gate, combine=ctx.combine), inputs, needed, [gradient])
        features, *others = inputs
        last = is_channels_last(features)
        gradients = iter(_run(_gradients, flat(gradient, last), _flattened(features, others), ctx.combine, needed))
        for_features = unflat(next(gradients), features.shape, last) if needed[0] else None
        for_others = (next(gradients).view_as(t) if need else None for t, need in zip(others, needed[1:], strict=True))
        return None, for_features, *for_others


def _flattened(features: Tensor, others: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Features and both logits as they are stored, flattened; and the scale. Autograd does not follow them."""
    last = is_channels_last(features)
    detached = [None if t is None else t.detach() for t in (features, *others)]
    return [None if t is None else flat(t, last) for t in detached[:3]] + detached[3:]


def _gradients(gradient: Tensor, inputs: Sequence[Tensor | None], combine: str, needed: Sequence[bool]) -> list[Tensor]:
    """The needed gradients of the formula."""

    def of_needed(*chosen: Tensor) -> Tensor:
        remaining = iter(chosen)
        features, mc, ms, scale = (next(remaining) if need else t for t, need in zip(inputs, needed, strict=True))
        assert features is not None
        return formula.gate(features, mc, ms, scale, combine)

    pull_back: Any = torch.func.vjp(of_needed, *(t for t, need in zip(inputs, needed, strict=True) if need))[1]
    return list(pull_back(gradient))


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _run(function: Callable[..., Any], *inputs: Any) -> Any:
    try:
        return _compiled(function)(*inputs)
    except private.failure_to_compile() as error:
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeError(
            f"kernel='inductor' or BAM_KERNEL=inductor: the gate cannot be compiled here: {reason}; it needs a C++ "
            "compiler such as g++ (on a GPU, Triton). kernel='torch' works everywhere (for an existing module: "
            "module.kernel = 'torch')"
        ) from error
