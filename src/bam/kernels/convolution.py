"""The spatial branch's convolutions of few channels."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, is_ordinary, needs_gradient, wants_formula, without_autocast
from bam.kernels.layout import as_nchw


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """A 1x1 or dilated 3x3 convolution that keeps H and W: (N, c, H, W) -> (N, c', H, W).

    For few channels on a CPU, the result is NCHW, 1x1 convolutions are matrix products, and 3x3 convolutions have a
    backward pass of their own: a convolution for the features, and a product with nine shifted copies of them for the
    weight.
    """
    operands = features, weight, bias
    # is_ordinary comes first, because an exporter would make the size of the map a condition
    if bias is None or not is_ordinary(operands) or not _is_narrow(features, max(weight.shape[:2])):
        return formula.convolve(features, weight, bias, dilation)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        weight, bias = weight.to(dtype), bias.to(dtype)
    if not features.dtype == weight.dtype == bias.dtype or features.dtype == torch.float16:
        return formula.convolve(*operands, dilation)
    features, weight = as_nchw(features), as_nchw(weight)
    if weight.shape[2:].numel() == 1:
        kernels = weight.flatten(1).expand(len(features), -1, -1)
        return torch.baddbmm(bias[:, None], kernels, features.flatten(2)).unflatten(2, features.shape[2:])
    if not needs_gradient((features, weight, bias)):
        return formula.convolve(features, weight, bias, dilation)
    return _Convolution.apply(dilation, features, weight, bias)


def stored_for_convolve(features: Tensor) -> Tensor:
    """`features` in the layout that `convolve` uses, so that layers before it compute in that layout too."""
    if isinstance(features, Tensor) and is_ordinary([features]) and _is_narrow(features, features.shape[1]):
        return as_nchw(features)
    return features


def _is_narrow(maps: Tensor, channels: int) -> bool:
    """Whether convolutions of `maps` with at most so many channels, and their BatchNorms, are faster here.

    With 2 to 6 channels, all layers of a spatial branch train 1.3 to 2.2 times as fast as with oneDNN in channels_last
    (AMD EPYC, one thread, 16 to 32 images); from 8 on they do not. Small maps gain less than the new layout costs.
    """
    return channels < 8 and maps.device.type == "cpu" and maps.numel() >= 4096


class _Convolution(torch.autograd.Function):
    """The formula for 3x3 kernels, with a hand-written backward pass."""

    @staticmethod
    def forward(ctx: Any, dilation: int, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.dilation = dilation
        ctx.save_for_backward(features, weight, bias)
        return formula.convolve(features, weight, bias, dilation)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, _ = inputs = ctx.saved_tensors
        dilation, needed = ctx.dilation, ctx.needs_input_grad[1:]
        if wants_formula(gradient):
            return None, *gradients_of_formula(partial(formula.convolve, dilation=dilation), inputs, needed, [gradient])
        gradient = as_nchw(gradient)
        for_features = for_weight = None
        if needed[0]:
            for_features = formula.convolve(gradient, weight.transpose(0, 1).flip(2, 3), None, dilation)
        if needed[1]:
            windows = F.pad(features, 4 * [dilation]).unfold(2, features.shape[2], dilation)
            windows = windows.unfold(3, features.shape[3], dilation).flatten(1, 3).flatten(2)
            for_weight = (gradient.flatten(2) @ windows.transpose(1, 2)).sum(0).view_as(weight)
        return None, for_features, for_weight, gradient.sum((0, 2, 3)) if needed[2] else None
