"""The reduction C -> C/r with which both branches begin, in one pass over the feature map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bam.kernels.gate import is_channels_last


def pool_and_reduce(
    features: Tensor, fc_weight: Tensor, fc_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """(W0 AvgPool(F) + b0, f0(F)): the first layers of the channel and of the spatial branch.

    Shapes: features (N, C, H, W), fc_weight (c, C), conv_weight (c, C, 1, 1), both biases (c,);
    returns (N, c) and (N, c, H, W).

    Both are linear and average pooling commutes with a 1x1 convolution, W0 AvgPool(F) = AvgPool(conv1x1(F, W0)), so for
    channels_last features one convolution with the two weights stacked reads F once where two layers read it twice
    (exact in real arithmetic). In NCHW that gains nothing, and the layers are computed as the paper states them.
    """
    if not is_channels_last(features):
        pooled = F.linear(features.mean((2, 3)), fc_weight, fc_bias)
        return pooled, F.conv2d(features, conv_weight, conv_bias)
    weight = torch.cat([fc_weight[:, :, None, None], conv_weight])
    stacked = F.conv2d(features, weight, torch.cat([fc_bias, conv_bias]))
    for_channels, for_places = stacked.chunk(2, dim=1)
    return for_channels.mean((2, 3)), for_places
