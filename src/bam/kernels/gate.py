"""The gate F' = F + F * sigmoid(Mc + Ms): the eager specification."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: How the two branches become one map, before the sigmoid (paper, ablation over combining; "sum" is its choice).
COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}


def gate(
    features: Tensor,
    channel_logits: Tensor | None,
    spatial_logits: Tensor | None,
    combine: str = "sum",
    scale: Tensor | None = None,
) -> Tensor:
    """F' = F + F * M(F), M(F) = sigmoid(Mc(F) + Ms(F)) (BAM, equations 1 and 2, https://arxiv.org/abs/1807.06514).

    Shapes: features (N, C, H, W), channel_logits (N, C, 1, 1), spatial_logits (N, 1, H, W), scale (1,). One of the
    logits may be None; the map is then the sigmoid of the other. With `scale` s the map is weighed:
    F' = F + s * F * M(F). Type and memory layout of `features` are kept.
    """
    logits = [t for t in (channel_logits, spatial_logits) if t is not None]
    if is_channels_last(features):
        # (N, C, 1, 1) + (N, 1, H, W) has no layout of its own and would become NCHW: work on the NHWC view instead.
        features, *logits = (t.permute(0, 2, 3, 1) for t in (features, *logits))
        return _gate(features, logits, combine, scale).permute(0, 3, 1, 2)
    return _gate(features, logits, combine, scale)


def _gate(features: Tensor, logits: list[Tensor], combine: str, scale: Tensor | None) -> Tensor:
    first, *others = (t.to(features.dtype) for t in logits)
    attention = COMBINE[combine](first, *others).sigmoid_() if others else first.sigmoid()
    if scale is not None:
        attention = attention * scale.to(features.dtype)
    attention = attention.expand_as(features)  # from one branch alone it is smaller
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # compilers know better than _Refine
        return torch.addcmul(features, features, attention)
    return _Refine.apply(features, attention)


class _Refine(torch.autograd.Function):
    """F + F * M with a backward of two passes; autograd's own for `addcmul(F, F, M)` makes six."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, attention: Tensor) -> Tensor:
        return torch.addcmul(features, features, attention)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, attention = ctx.saved_tensors
        for_features, for_attention = ctx.needs_input_grad
        return (
            torch.addcmul(gradient, gradient, attention) if for_features else None,
            gradient * features if for_attention else None,
        )

    @staticmethod
    def jvp(ctx: Any, features_tangent: Tensor | None, attention_tangent: Tensor | None) -> Tensor:
        features, attention = ctx.saved_tensors
        tangent = torch.zeros_like(features)
        if features_tangent is not None:
            tangent = tangent + features_tangent * (1 + attention)
        return tangent if attention_tangent is None else tangent + features * attention_tangent


def is_channels_last(features: Tensor) -> bool:
    """Whether an (N, C, H, W) tensor is stored as NHWC and not also as NCHW.

    `Tensor.is_contiguous(memory_format=torch.channels_last)` fails under `torch.func.vmap`; this does not.
    """
    return not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()
