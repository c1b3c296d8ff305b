"""Batch normalisation: a layer that also works where a batch statistic is undefined, and freezing of any such layer."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bam.private import NormBase, remove_forward_pre_hook


class BatchNormTensors(NamedTuple):
    """The tensors of a BatchNorm."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches: Tensor | None
    weight: Tensor
    bias: Tensor


def batch_normalize(x: Tensor, tensors: BatchNormTensors, training: bool, momentum: float | None, eps: float) -> Tensor:
    """Batch-normalise x (N, C, ...) by its own statistics if `training` and it has any, else by the running ones."""
    mean, var, num_batches, weight, bias = tensors
    if not training or x.numel() <= x.shape[1]:
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    assert num_batches is not None  # BatchNorm below always tracks
    num_batches.add_(1)
    return F.batch_norm(x, mean, var, weight, bias, True, 1 / float(num_batches) if momentum is None else momentum, eps)


torch.fx.wrap("batch_normalize")  # its branch depends on the input's shape, which symbolic tracing does not know


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` for (N, C) and (N, C, H, W), which survives a training batch with one value per channel.

    The variance of a single value is undefined, and PyTorch raises; here such a batch is normalised with the running
    statistics and leaves them as they are. It happens in the channel branch for a batch of one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x over everything but its second dimension; the shape is kept."""
        tensors = BatchNormTensors(
            self.running_mean, self.running_var, self.num_batches_tracked, self.weight, self.bias
        )
        return batch_normalize(x, tensors, self.training, self.momentum, self.eps)


def freeze_statistics(norm: NormBase, frozen: bool = True) -> None:
    """Make one BatchNorm normalise by its running statistics for good, or undo that; its mode does not matter."""
    remove_forward_pre_hook(norm, normalize_by_running_statistics)
    if frozen:
        norm.register_forward_pre_hook(normalize_by_running_statistics)


def normalize_by_running_statistics(norm: nn.Module, args: Any) -> None:
    """The hook of a frozen BatchNorm, before its forward pass."""
    norm.training = False
