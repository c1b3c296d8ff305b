"""Batch normalisation: a layer that works even if a batch statistic is undefined, and freezing of any BatchNorm."""

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
    """Normalise x (N, C, ...) by its batch statistics if `training` and they are defined, else by the running ones."""
    mean, var, num_batches, weight, bias = tensors
    if not training or x.numel() <= x.shape[1]:
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    assert num_batches is not None  # BatchNorm below always tracks statistics
    num_batches.add_(1)
    return F.batch_norm(x, mean, var, weight, bias, True, 1 / float(num_batches) if momentum is None else momentum, eps)


torch.fx.wrap("batch_normalize")  # branches on the shape of its input, so torch.fx must not trace into it


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` for (N, C) and (N, C, H, W) that accepts a training batch with one value per channel.

    The variance of a single value is undefined, and PyTorch raises. This layer normalises such a batch with the running
    statistics, without updating them. This happens in the channel branch for a batch of one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x per channel (dimension 1); keeps the shape."""
        tensors = BatchNormTensors(
            self.running_mean, self.running_var, self.num_batches_tracked, self.weight, self.bias
        )
        return batch_normalize(x, tensors, self.training, self.momentum, self.eps)


def freeze_statistics(norm: NormBase, frozen: bool = True) -> None:
    """Make a BatchNorm always normalise by its running statistics, in any mode, or undo that."""
    remove_forward_pre_hook(norm, normalize_by_running_statistics)
    if frozen:
        norm.register_forward_pre_hook(normalize_by_running_statistics)


def normalize_by_running_statistics(norm: nn.Module, args: Any) -> None:
    """Forward pre-hook of a frozen BatchNorm."""
    norm.training = False
