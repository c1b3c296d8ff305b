"""The spatial branch's convolutions of few channels."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, is_ordinary, needs_gradient, wants_formula, without_autocast
from bam.kernels.layout import as_nchw, prefers_nchw


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """A 1x1 or dilated 3x3 convolution that keeps H and W: (N, c, H, W) -> (N, c', H, W).

    For few channels on a CPU, the result is NCHW, unless the maps are small. There a matrix product takes a tenth of
    the time of oneDNN's 1x1 convolution. Its backward pass of a 3x3 convolution takes four times as long as the one
    here: a convolution for the features, and a matrix product with nine shifted copies of them for the weight.
    """
    if bias is None or not is_ordinary((features, weight, bias)) or not prefers_nchw(features, max(weight.shape[:2])):
        return formula.convolve(features, weight, bias, dilation)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    if features.dtype != dtype:
        return formula.convolve(features, weight, bias, dilation)
    features, weight, bias = operands = tuple(as_nchw(t.to(dtype)) for t in (features, weight, bias))
    if weight.shape[2:].numel() == 1:
        kernels = weight.flatten(1).expand(len(features), -1, -1)
        return torch.baddbmm(bias[:, None], kernels, features.flatten(2)).unflatten(2, features.shape[2:])
    if not needs_gradient(operands):
        return formula.convolve(features, weight, bias, dilation)
    return _Convolution.apply(dilation, features, weight, bias)


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
