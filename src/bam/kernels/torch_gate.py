"""The gate in torch operations."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bam import private
from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, is_ordinary, needs_gradient, wants_formula, without_autocast
from bam.kernels.layout import flat, is_channels_last, unflat


def gate(
    features: Tensor,
    channel_logits: Tensor | None,
    spatial_logits: Tensor | None,
    scale: Tensor | None,
    combine: str,
    recompute: bool,
) -> Tensor:
    """`bam.kernels.gate` in torch operations, with a hand-written backward pass in plain eager mode."""
    mc, ms, scale = (None if t is None else t.to(features.dtype) for t in (channel_logits, spatial_logits, scale))
    operands = features, mc, ms, scale
    if not is_ordinary(operands):
        return formula.gate(features, mc, ms, scale, combine)
    if not needs_gradient(operands):
        attention = _attention_map(features, mc, ms, combine)
        fits = attention.shape == features.shape and attention.stride() == features.stride()
        return _refine(features, attention, scale, out=attention if fits else None)
    if combine != "max" and all(len(t) == len(features) for t in (mc, ms) if t is not None):
        return _Gate.apply(combine, recompute, features, mc, ms, scale)
    if recompute:
        return checkpoint(formula.gate, features, mc, ms, scale, combine, use_reentrant=False, preserve_rng_state=False)
    return formula.gate(features, mc, ms, scale, combine)


class _Gate(torch.autograd.Function):
    """The formula, with a backward pass that reads tensors of the size of F only a few times; not for "max"."""

    @staticmethod
    def forward(ctx: Any, combine: str, recompute: bool, features: Tensor, *others: Tensor | None) -> Tensor:
        mc, ms, scale = others
        ctx.combine = combine
        attention = _attention_map(features, mc, ms, combine)
        ctx.save_for_backward(features, mc, ms, scale, None if recompute else attention)
        return _refine(features, attention, scale)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, attention = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if wants_formula(gradient):
            gate_formula = partial(formula.gate, combine=ctx.combine)
            return None, None, *gradients_of_formula(gate_formula, inputs, needed, [gradient])
        features, mc, ms, scale = inputs
        attention = _attention_map(features, mc, ms, ctx.combine) if attention is None else attention
        for_features = for_mc = for_ms = for_scale = products = None
        if any(needed[1:]):
            products = gradient * features
            for_attention = _sum(products, attention.shape)
            if needed[3]:
                for_scale = (for_attention * attention).sum().view_as(scale)
            if scale is not None:
                for_attention.mul_(scale)
            for_logits = torch.ops.aten.sigmoid_backward.grad_input(for_attention, attention, grad_input=for_attention)
            for_mc = _for_branch(for_logits, mc, ms, ctx.combine) if needed[1] else None
            for_ms = _for_branch(for_logits, ms, mc, ctx.combine) if needed[2] else None
        if needed[0]:
            is_free = all(t is None or t.shape != gradient.shape for t in (mc, ms))  # else it is that logit's gradient
            for_features = _refine(gradient, attention, scale, out=products if is_free else None)
        return None, None, for_features, for_mc, for_ms, for_scale


def _refine(features: Tensor, attention: Tensor, scale: Tensor | None, out: Tensor | None = None) -> Tensor:
    """F + s F M(F), written to `out` if given: memory that is in the cache already, and causes no page faults."""
    weighted = attention if scale is None else attention * scale
    if weighted.shape != features.shape and features.dtype == torch.bfloat16 and features.device.type == "cpu":
        return torch.mul(features, 1 + weighted, out=out)  # a CPU broadcasts addcmul number by number
    return torch.addcmul(features, features, weighted, out=out)


def _attention_map(features: Tensor, mc: Tensor | None, ms: Tensor | None, combine: str) -> Tensor:
    """`formula.attention_map`, two to four times as fast for the sum of bfloat16 logits on a CPU.

    A matrix product computes the denominators 1 + exp(-mc) exp(-ms) in one pass. M(F) is off by up to 0.006 instead of
    0.003.
    """
    if not _multiplies_bf16(features) or not formula.is_separable(features, mc, ms, combine):
        return formula.attention_map(features, mc, ms, combine)
    assert mc is not None and ms is not None
    last = is_channels_last(features)
    row, column = (flat(formula.exp_neg(t), last) for t in ((mc, ms) if last else (ms, mc)))
    denominators = torch.cat([column, torch.ones_like(column)], 2) @ torch.cat([row, torch.ones_like(row)], 1)
    return unflat(denominators.reciprocal_(), features.shape, last)


def _multiplies_bf16(features: Tensor) -> bool:
    """Whether these are bfloat16 numbers that a CPU multiplies fast, and autocast leaves as they are."""
    other = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16
    return features.dtype == torch.bfloat16 and features.device.type == "cpu" and not other and private.cpu_has_bf16()


def _for_branch(for_logits: Tensor, own: Tensor, other: Tensor | None, combine: str) -> Tensor:
    """Gradient for one branch's logits, given the gradient of the combined logits."""
    return _sum(for_logits if other is None or combine == "sum" else for_logits * other, own.shape)


def _sum(values: Tensor, shape: torch.Size) -> Tensor:
    """`values` (N, C, H, W) summed to (N, C, 1, 1) or (N, 1, H, W).

    On CPUs it uses matrix products, which are much faster in bfloat16.
    """
    if values.shape == shape or values.device.type != "cpu" or values.dtype == torch.float16:
        return values.sum_to_size(shape)
    last, over_places = is_channels_last(values), shape[1] == values.shape[1]
    maps = flat(values, last)
    if last == over_places:
        return (maps.new_ones(1, 1, maps.shape[1]).expand(len(maps), -1, -1) @ maps).view(shape)
    sums = maps @ maps.new_ones(maps.shape[2], 1)
    # With the strides of F, the BatchNorm that gets this gradient rounds less for channels_last bfloat16.
    return unflat(sums, shape, last)
