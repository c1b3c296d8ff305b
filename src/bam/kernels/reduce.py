"""The inputs of both branches: the channel averages of the feature map, and its 1x1 reduction C -> C/r."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, is_ordinary, needs_gradient, wants_formula, without_autocast
from bam.kernels.layout import flat, is_channels_last, unflat


def pool_and_reduce(features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(F, AvgPool(F), f0(F)): the feature map, its averages, and the first layer of the spatial branch.

    Shapes: features (N, C, H, W), weight (c, C, 1, 1), bias (c,); returns (N, C, H, W), (N, C) and (N, c, H, W).

    The caller must continue with the returned features. In eager training, one matrix product then sums the gradients
    of all three outputs. Autograd would write three tensors of the size of F and add them up.
    """
    if not is_ordinary((features, weight, bias)):
        return formula.pool_and_reduce(features, weight, bias)
    device_type = features.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else weight.dtype
    slow = device_type == "cpu" and dtype == torch.float16  # products and sums are slow and may overflow
    if features.dtype != dtype or slow:
        return formula.pool_and_reduce(features, weight, bias)
    inputs = features, weight.to(dtype), bias.to(dtype)
    if not needs_gradient(inputs):
        return features, *_products(*inputs)
    same, averages, reduced = _PoolAndReduce.apply(*inputs)
    return same if features.requires_grad else features, averages, reduced


class _PoolAndReduce(torch.autograd.Function):
    """The formula as batched matrix products, on (N, H W, C) if F is channels_last, else on (N, C, H W)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(features, weight, bias)
        ctx.set_materialize_grads(False)
        return features.view_as(features), *_products(features, weight, bias)

    @staticmethod
    @without_autocast
    def backward(
        ctx: Any, for_features: Tensor | None, for_averages: Tensor | None, for_reduced: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        features, weight, _ = inputs = ctx.saved_tensors
        gradients = (for_features, for_averages, for_reduced)
        unused = for_averages is None or for_reduced is None or (for_features is None and ctx.needs_input_grad[0])
        if unused or wants_formula(*gradients):
            return tuple(gradients_of_formula(formula.pool_and_reduce, inputs, ctx.needs_input_grad, gradients))
        assert for_averages is not None and for_reduced is not None
        last = is_channels_last(features)
        maps, for_maps = flat(features, last), flat(for_reduced, last)
        for_weight = None
        if ctx.needs_input_grad[1]:
            flipped = for_maps.flatten(0, 1).t() @ maps.flatten(0, 1) if last else for_maps @ maps.transpose(1, 2)
            for_weight = flipped.sum_to_size(weight.shape[:2]).view_as(weight)
        if for_features is not None:
            # Gradient for F at one place: (gradient of f0(F), 1) times (weight; gradient of the averages / (H W)).
            left = torch.cat([for_maps, torch.ones_like(for_maps.narrow(2 if last else 1, 0, 1))], 2 if last else 1)
            average = for_averages[:, None] / features.shape[2:].numel()
            right = torch.cat([weight.flatten(1).expand(len(average), -1, -1), average], 1)
            total = flat(for_features, last)
            factors = (left, right) if last else (right.transpose(1, 2), left)
            total = torch.baddbmm(total, *factors)
            for_features = unflat(total, features.shape, last)
        return for_features, for_weight, for_reduced.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def _products(features: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(AvgPool(F), f0(F))."""
    last = is_channels_last(features)
    if last:
        reduced = F.conv2d(features, weight, bias)
    else:
        kernels = weight.flatten(1).expand(len(features), -1, -1)
        reduced = torch.baddbmm(bias[:, None], kernels, features.flatten(2)).unflatten(2, features.shape[2:])
    return _averages(flat(features, last), last), reduced


def _averages(maps: Tensor, last: bool) -> Tensor:
    """AvgPool(F), (N, C), of flattened maps. On CPUs it is a matrix product, which is much faster in bfloat16."""
    places = maps.shape[1 if last else 2]
    if maps.device.type != "cpu":
        return maps.mean(1 if last else 2)
    if last:
        return (maps.new_ones(1, 1, places).expand(len(maps), -1, -1) @ maps).squeeze(1) / places
    return (maps @ maps.new_ones(places, 1)).squeeze(2) / places
