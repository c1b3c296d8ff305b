"""The spatial branch's convolutions of few channels."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from bam.kernels import formula
from bam.kernels.autograd import gradients_of_formula, is_ordinary, needs_gradient, wants_formula, without_autocast
from bam.kernels.layout import as_nchw, prefers_nchw


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """A 1x1 or dilated 3x3 convolution that keeps H and W: (N, c, H, W) -> (N, c', H, W).

    For few channels on a CPU, the result is NCHW, unless the maps are small. There a matrix product takes a tenth of
    the time of oneDNN's 1x1 convolution, and the gradient for the features of a 3x3 convolution is a convolution too,
    which takes a sixth of the time of oneDNN's.
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
    """The formula, with a backward pass of one convolution for each gradient."""

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
            for_weight = conv2d_weight(features, weight.shape, gradient, padding=dilation, dilation=dilation)
        return None, for_features, for_weight, gradient.sum((0, 2, 3)) if needed[2] else None
