"""The gate F' = F + F * sigmoid(Mc + Ms): the eager specification."""

from collections.abc import Callable

import torch
from torch import Tensor

#: How the two branches become one map, before the sigmoid (paper, ablation over combining; "sum" is its choice).
COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}


def gate(
    features: Tensor, channel_logits: Tensor, spatial_logits: Tensor, combine: str = "sum", scale: Tensor | None = None
) -> Tensor:
    """F' = F + F * M(F), M(F) = sigmoid(Mc(F) + Ms(F)) (BAM, equations 1 and 2, https://arxiv.org/abs/1807.06514).

    Shapes: features (N, C, H, W), channel_logits (N, C, 1, 1), spatial_logits (N, 1, H, W), scale (1,).
    With `scale` s the map is weighed: F' = F + s * F * M(F). Type and memory layout of `features` are kept.
    """
    if is_channels_last(features):
        # (N, C, 1, 1) + (N, 1, H, W) has no layout of its own and would become NCHW: work on the NHWC view instead.
        features, channel_logits, spatial_logits = (
            t.permute(0, 2, 3, 1) for t in (features, channel_logits, spatial_logits)
        )
        return _gate(features, channel_logits, spatial_logits, combine, scale).permute(0, 3, 1, 2)
    return _gate(features, channel_logits, spatial_logits, combine, scale)


def _gate(features: Tensor, mc: Tensor, ms: Tensor, combine: str, scale: Tensor | None) -> Tensor:
    attention = COMBINE[combine](mc.to(features.dtype), ms.to(features.dtype)).sigmoid()
    if scale is not None:
        attention = attention * scale.to(features.dtype)
    return torch.addcmul(features, features, attention)


def is_channels_last(features: Tensor) -> bool:
    """Whether an (N, C, H, W) tensor is stored as NHWC and not also as NCHW.

    `Tensor.is_contiguous(memory_format=torch.channels_last)` fails under `torch.func.vmap`; this does not.
    """
    return not features.is_contiguous() and features.permute(0, 2, 3, 1).is_contiguous()
