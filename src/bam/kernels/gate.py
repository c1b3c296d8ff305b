"""The gate F' = F + F * sigmoid(Mc + Ms): its formula, and its eager computation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bam.kernels.backend import takes_triton
from bam.kernels.eager import gradients_of_formula, is_ordinary, wants_formula, without_autocast

#: How the two branches become one map, before the sigmoid (paper, ablation over combining; "sum" is its choice).
COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}


def gate(
    features: Tensor,
    channel_logits: Tensor | None,
    spatial_logits: Tensor | None,
    combine: str = "sum",
    scale: Tensor | None = None,
    recompute: bool = False,
    kernel: str | None = None,
) -> Tensor:
    """F' = F + F * M(F), M(F) = sigmoid(Mc(F) + Ms(F)) (BAM, equations 1 and 2, https://arxiv.org/abs/1807.06514).

    Shapes: features (N, C, H, W), channel_logits (N, C, 1, 1), spatial_logits (N, 1, H, W), scale (1,). One of the
    logits may be None; the map is then the sigmoid of the other. With `scale` s the map is weighed:
    F' = F + s * F * M(F). Type and memory layout of `features` are kept. With `recompute`, eager training does not keep
    M(F) for the backward pass but computes it again.

    `kernel` is "auto", "torch" or "triton"; None is what BAM_KERNEL says in the environment now (under
    torch.compile, when it compiles), or else "auto". Triton never keeps M(F); `takes_triton` tells what is refused.
    """
    logits = (channel_logits, spatial_logits)
    if takes_triton(kernel, (features, *logits, scale)):
        return _by_triton(features, *logits, scale, combine)
    mc, ms, scale = (None if t is None else t.to(features.dtype) for t in (*logits, scale))
    if not is_ordinary((features, mc, ms, scale)):
        return formula(features, mc, ms, scale, combine)
    if combine != "max" and all(len(t) == len(features) for t in (mc, ms) if t is not None):
        return _Gate.apply(features, mc, ms, scale, combine, recompute)
    if recompute:
        return checkpoint(formula, features, mc, ms, scale, combine, use_reentrant=False, preserve_rng_state=False)
    return formula(features, mc, ms, scale, combine)


def _by_triton(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    from bam.kernels import triton_gate

    near = torch.channels_last if features.stride(1) < features.stride(3) else torch.contiguous_format
    features = features if features.is_contiguous() else features.contiguous(memory_format=near)
    last = is_channels_last(features)

    def flat(tensor: Tensor) -> Tensor:
        return tensor.permute(0, 2, 3, 1).flatten(1, 2) if last else tensor.flatten(2)

    mc, ms = (None if t is None else flat(t) for t in (channel_logits, spatial_logits))
    output = triton_gate.gate(flat(features), ms if last else mc, mc if last else ms, scale, combine)
    if last:
        return output.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2)
    return output.view(features.shape)


def formula(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """The gate of torch's operations; all tensors of one type, in any shapes that broadcast."""
    attention = _attention_like(features, channel_logits, spatial_logits, combine)
    return torch.addcmul(features, features, attention if scale is None else attention * scale)


def _attention(channel_logits: Tensor | None, spatial_logits: Tensor | None, combine: str) -> Tensor:
    if channel_logits is not None and spatial_logits is not None:
        return COMBINE[combine](channel_logits, spatial_logits).sigmoid_()
    alone = spatial_logits if channel_logits is None else channel_logits
    assert alone is not None
    return alone.sigmoid()


class _Gate(torch.autograd.Function):
    """The formula, with a backward pass of few passes over tensors of the size of F; not for "max"."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        mc: Tensor | None,
        ms: Tensor | None,
        scale: Tensor | None,
        combine: str,
        recompute: bool,
    ) -> Tensor:
        ctx.combine = combine
        attention = _attention_like(features, mc, ms, combine)
        ctx.save_for_backward(features, mc, ms, scale, None if recompute else attention)
        return torch.addcmul(features, features, attention if scale is None else attention * scale)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, attention = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if wants_formula(gradient):
            return *gradients_of_formula(partial(formula, combine=ctx.combine), inputs, needed, [gradient]), None, None
        features, mc, ms, scale = inputs
        attention = _attention_like(features, mc, ms, ctx.combine) if attention is None else attention
        weighed = attention if scale is None else attention * scale
        for_features = torch.addcmul(gradient, gradient, weighed) if needed[0] else None
        for_mc = for_ms = for_scale = None
        if any(needed[1:]):
            for_attention = _sum(gradient * features, attention.shape)
            if needed[3]:
                for_scale = (for_attention * attention).sum().view_as(scale)
            if scale is not None:
                for_attention = for_attention * scale
            for_logits = torch.ops.aten.sigmoid_backward(for_attention, attention)
            for_mc = _for_branch(for_logits, mc, ms, ctx.combine) if needed[1] else None
            for_ms = _for_branch(for_logits, ms, mc, ctx.combine) if needed[2] else None
        return for_features, for_mc, for_ms, for_scale, None, None


def _attention_like(features: Tensor, mc: Tensor | None, ms: Tensor | None, combine: str) -> Tensor:
    """M(F) in the layout of F: (N, C, 1, 1) + (N, 1, H, W) has none of its own and would become NCHW."""
    if not is_channels_last(features):
        return _attention(mc, ms, combine)
    mc, ms = (None if t is None else t.permute(0, 2, 3, 1) for t in (mc, ms))
    return _attention(mc, ms, combine).permute(0, 3, 1, 2)


def _for_branch(for_logits: Tensor, own: Tensor, other: Tensor | None, combine: str) -> Tensor:
    """The gradient of the logits of one branch, of the gradient of what it is combined to with those of the other."""
    return _sum(for_logits if other is None or combine == "sum" else for_logits * other, own.shape)


def _sum(values: Tensor, shape: torch.Size) -> Tensor:
    """`values` (N, C, H, W) summed to (N, C, 1, 1) or (N, 1, H, W).

    On a CPU as matrix products, which are much faster there for bfloat16.
    """
    if values.shape == shape or values.device.type != "cpu" or values.dtype == torch.float16:
        return values.sum_to_size(shape)
    last, over_places = is_channels_last(values), shape[1] == values.shape[1]
    maps = values.permute(0, 2, 3, 1).flatten(1, 2) if last else values.flatten(2)
    if last == over_places:
        return (maps.new_ones(1, 1, maps.shape[1]).expand(len(maps), -1, -1) @ maps).view(shape)
    sums = maps @ maps.new_ones(maps.shape[2], 1)
    # In the strides of F: the BatchNorm that this goes back through rounds less for channels_last bfloat16 than else.
    return sums.unflatten(1, shape[2:]).permute(0, 3, 1, 2) if last else sums.view(shape)


def is_channels_last(features: Tensor) -> bool:
    """Whether a tensor is an (N, C, H, W) that is stored as NHWC and not also as NCHW.

    `Tensor.is_contiguous(memory_format=torch.channels_last)` fails under `torch.func.vmap`; this does not.
    """
    return features.dim() == 4 and not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()
