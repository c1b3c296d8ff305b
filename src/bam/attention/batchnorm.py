"""Batch normalisation: a layer that accepts a single value per channel, and freezing of any BatchNorm."""

import re
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bam.private import NormBase, remove_forward_pre_hook


class BatchNormTensors(NamedTuple):
    """The tensors of a BatchNorm; without `num_batches`, the running statistics are not updated."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches: Tensor | None
    weight: Tensor
    bias: Tensor


def batch_normalize(x: Tensor, tensors: BatchNormTensors, training: bool, momentum: float | None, eps: float) -> Tensor:
    """Normalise x (N, C, ...) as `nn.BatchNorm2d` does, but a single value per channel by the running statistics.

    Without running statistics, a single value is normalised by their initial values, mean 0 and variance 1.
    """
    mean, var, num_batches, weight, bias = tensors
    if x.numel() <= x.shape[1]:
        mean = torch.zeros_like(weight) if mean is None else mean
        var = torch.ones_like(weight) if var is None else var
        training = False
    if not training and mean is not None:
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
    if mean is None or num_batches is None:
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    num_batches.add_(1)
    return F.batch_norm(x, mean, var, weight, bias, True, 1 / float(num_batches) if momentum is None else momentum, eps)


torch.fx.wrap("batch_normalize")  # branches on the shape of its input, so torch.fx must not trace into it


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` for (N, C) and (N, C, H, W) that accepts a training batch with one value per channel.

    The variance of a single value is undefined, and PyTorch raises an error. This layer normalises such a batch by the
    running statistics, without updating them. The channel branch needs this for a batch of one image. All settings of
    `nn.BatchNorm2d` work: `track_running_stats`, `momentum`, no running statistics at all.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x per channel (dimension 1); keeps the shape."""
        num_batches = self.num_batches_tracked if self.track_running_stats else None
        tensors = BatchNormTensors(self.running_mean, self.running_var, num_batches, self.weight, self.bias)
        return batch_normalize(x, tensors, self.training, self.momentum, self.eps)


def normalize_averages(norm: nn.Module, averages: Tensor) -> Tensor:
    """Apply `norm` to averages (N, C); layers that replaced a `BatchNorm` get (N, C, 1, 1)."""
    if isinstance(norm, BatchNorm | nn.SyncBatchNorm | nn.Identity):
        return norm(averages)
    return norm(averages[:, :, None, None]).flatten(1)


def is_norm(layer: nn.Module) -> bool:
    """Whether `layer` is a normalisation layer, by name: torch's, timm's and torchvision's share no base class."""
    return any(re.search("(Batch|Group|Layer|Instance|RMS)Norm", cls.__name__) for cls in type(layer).__mro__)


def is_frozen(norm: nn.Module) -> bool:
    """Whether `norm` is a FrozenBatchNorm of timm or torchvision, whose statistics never change."""
    return "FrozenBatchNorm" in type(norm).__name__


def freeze_statistics(norm: NormBase, frozen: bool = True) -> None:
    """Make a BatchNorm normalise by its running statistics in every mode; `frozen=False` undoes that."""
    remove_forward_pre_hook(norm, normalize_by_running_statistics)
    if frozen:
        norm.register_forward_pre_hook(normalize_by_running_statistics)


def normalize_by_running_statistics(norm: nn.Module, args: Any) -> None:
    """Forward pre-hook of a frozen BatchNorm."""
    norm.training = False
