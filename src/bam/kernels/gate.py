"""The gate F' = F + F * sigmoid(Mc + Ms): its formula, and its eager computation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bam.kernels.backend import takes_triton
from bam.kernels.eager import gradients_of_formula, is_ordinary, wants_formula

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
    triton = takes_triton(kernel, (features, channel_logits, spatial_logits, scale))
    if triton:
        near = torch.channels_last if features.stride(1) < features.stride(3) else torch.contiguous_format
        features = features if features.is_contiguous() else features.contiguous(memory_format=near)
    if is_channels_last(features):
        # (N, C, 1, 1) + (N, 1, H, W) has no layout of its own and would become NCHW: work on the NHWC view instead.
        views = [None if t is None else t.permute(0, 2, 3, 1) for t in (features, channel_logits, spatial_logits)]
        return _gate(views, (1, 2), combine, scale, recompute, triton).permute(0, 3, 1, 2)
    return _gate([features, channel_logits, spatial_logits], (2, 3), combine, scale, recompute, triton)


def _gate(
    tensors: list[Any], places: tuple[int, int], combine: str, scale: Tensor | None, recompute: bool, triton: bool
) -> Tensor:
    features = tensors[0]
    if triton:
        from bam.kernels import triton_gate

        maps, mc, ms = (None if t is None else t.flatten(*places) for t in tensors)
        rows, columns = (mc, ms) if places == (2, 3) else (ms, mc)
        return triton_gate.gate(maps, rows, columns, scale, combine).view(features.shape)
    mc, ms, scale = (None if t is None else t.to(features.dtype) for t in (*tensors[1:], scale))
    if not is_ordinary((features, mc, ms, scale)):
        return formula(features, mc, ms, scale, combine)
    if combine == "max" and recompute:
        return checkpoint(formula, features, mc, ms, scale, combine, use_reentrant=False, preserve_rng_state=False)
    if combine == "max":
        return formula(features, mc, ms, scale, combine)
    flat = (t if t is None else t.flatten(*places) for t in (features, mc, ms))
    return _Gate.apply(*flat, scale, combine, recompute).view(features.shape)


def formula(
    features: Tensor, channel_logits: Tensor | None, spatial_logits: Tensor | None, scale: Tensor | None, combine: str
) -> Tensor:
    """The gate of torch's operations; all tensors of one type, in any shapes that broadcast."""
    attention = _attention(channel_logits, spatial_logits, combine)
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
        attention = _attention(mc, ms, combine)
        ctx.combine = combine
        ctx.save_for_backward(features, mc, ms, scale, None if recompute else attention)
        return torch.addcmul(features, features, attention if scale is None else attention * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, attention = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if wants_formula():
            return *gradients_of_formula(partial(formula, combine=ctx.combine), inputs, needed, [gradient]), None, None
        features, mc, ms, scale = inputs
        attention = _attention(mc, ms, ctx.combine) if attention is None else attention
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


def _for_branch(for_logits: Tensor, own: Tensor, other: Tensor | None, combine: str) -> Tensor:
    """The gradient of the logits of one branch, of the gradient of what it is combined to with those of the other."""
    return _sum(for_logits if other is None or combine == "sum" else for_logits * other, own.shape)


def _sum(values: Tensor, shape: torch.Size) -> Tensor:
    """`values` (N, a, b) summed to `shape`; on a CPU as matrix products, which are much faster there for bfloat16."""
    if values.device.type != "cpu" or values.dtype == torch.float16:
        return values.sum_to_size(shape)
    if shape[1] != values.shape[1]:
        values = values.new_ones(1, 1, values.shape[1]).expand(len(values), -1, -1) @ values
    return values @ values.new_ones(values.shape[2], 1) if shape[2] != values.shape[2] else values


def is_channels_last(features: Tensor) -> bool:
    """Whether an (N, C, H, W) tensor is stored as NHWC and not also as NCHW.

    `Tensor.is_contiguous(memory_format=torch.channels_last)` fails under `torch.func.vmap`; this does not.
    """
    return not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()
