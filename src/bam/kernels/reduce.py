"""What both branches read of the feature map: its averages, and its reduction C -> C/r at every place."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.kernels.eager import gradients_of_formula, is_ordinary, wants_formula
from bam.kernels.gate import is_channels_last


def pool_and_reduce(features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(F, AvgPool(F), f0(F)): the feature map, its averages, and the first layer of the spatial branch.

    Shapes: features (N, C, H, W), weight (c, C, 1, 1), bias (c,); returns (N, C, H, W), (N, C) and (N, c, H, W).

    The features come back so that the caller goes on with them: in eager training with channels_last features, the
    gradient that reaches them there is added to by one matrix product, in place, where autograd would write three
    tensors of the size of F and add them up.
    """
    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    together = is_channels_last(features) and features.dtype == dtype and is_ordinary((features, weight, bias))
    if not together:
        return _formula(features, weight, bias)
    return _PoolAndReduce.apply(features, weight.to(dtype), bias.to(dtype))


def _formula(features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return features, features.mean((2, 3)), F.conv2d(features, weight, bias)


class _PoolAndReduce(torch.autograd.Function):
    """The formula for channels_last features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(features, weight, bias)
        ctx.set_materialize_grads(False)
        return features.view_as(features), _averages(features), F.conv2d(features, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, for_features: Tensor | None, for_averages: Tensor | None, for_reduced: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        features, weight, bias = inputs = ctx.saved_tensors
        gradients = (for_features, for_averages, for_reduced)
        if for_features is None or for_averages is None or for_reduced is None or wants_formula():
            return tuple(gradients_of_formula(_formula, inputs, ctx.needs_input_grad, gradients))
        places, for_places = _rows(features), _rows(for_reduced)
        for_weight = for_places.flatten(0, 1).t() @ places.flatten(0, 1) if ctx.needs_input_grad[1] else None
        if ctx.needs_input_grad[0]:
            # What flows into F at a place is (its reduced gradient, 1) times (the weight; the averages' gradient / H W).
            left = torch.cat([for_places, for_places.new_ones(1, 1, 1).expand(*for_places.shape[:2], 1)], 2)
            average = for_averages[:, None] / places.shape[1]
            right = torch.cat([weight.flatten(1).expand(len(average), -1, -1), average], 1)
            for_features = _rows(for_features).baddbmm_(left, right)
            for_features = for_features.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2)
        return for_features, None if for_weight is None else for_weight.view_as(weight), for_reduced.sum((0, 2, 3))


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H W, C): a view if it is channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _averages(features: Tensor) -> Tensor:
    """AvgPool(F), (N, C), of channels_last features; on a CPU a matrix product, which is much faster for bfloat16."""
    if features.device.type != "cpu" or features.dtype == torch.float16:  # whose range a sum may leave
        return features.mean((2, 3))
    places = _rows(features)
    ones = places.new_ones(1, 1, places.shape[1]).expand(len(places), -1, -1)
    return (ones @ places).squeeze(1) / places.shape[1]
