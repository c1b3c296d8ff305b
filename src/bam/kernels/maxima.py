"""Maxima over the places or over the channels of a feature map."""

import torch.nn.functional as F
from torch import Tensor

from bam.kernels.autograd import is_ordinary, needs_gradient


def over_places(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C). Of equal maxima, the first gets the gradient on a CPU; elsewhere they share it."""
    return F.adaptive_max_pool2d(features, 1).flatten(1) if _pools(features) else features.amax((2, 3))


def over_channels(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 1, H, W), likewise."""
    if not _pools(features):
        return features.amax(1, keepdim=True)
    n, _, height, width = features.shape
    rows = features.flatten(2).transpose(1, 2).unsqueeze(2)  # (N, H W, 1, C)
    return F.adaptive_max_pool2d(rows, 1).view(n, 1, height, width)


def _pools(features: Tensor) -> bool:
    """Whether to pool. On a CPU, its backward pass is up to ten times faster; GPUs have none that is deterministic."""
    return is_ordinary([features]) and features.device.type == "cpu" and needs_gradient([features])
