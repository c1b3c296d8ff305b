"""SSD backbones that torchvision lacks: a pyramid of ever smaller maps, and StairNet's top-down path."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from bam.attention.batchnorm import BatchNorm
from bam.private import stages_getter


class Pyramid(nn.Module):
    """Feature maps of a network's stages, followed by smaller maps from extra convolutions: images -> {"0": map, ...}.

    Args:
        network: a classification network.
        stages: module name -> channels, for the modules that produce the first maps.
        extra: channels of the extra maps.
        strides: stride of each extra map; with stride 1 there is no padding, so that 3 x 3 becomes 1 x 1.
    """

    def __init__(self, network: Any, stages: dict[str, int], extra: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.body = stages_getter(network, {name: str(level) for level, name in enumerate(stages)})
        self.extra = nn.ModuleList()
        self.out_channels = [*stages.values(), *extra]
        in_channels = self.out_channels[len(stages) - 1]
        for channels, stride in zip(extra, strides, strict=True):
            hidden = channels // 2
            padding = 1 if stride > 1 else 0
            self.extra.append(
                nn.Sequential(
                    Conv2dNormActivation(in_channels, hidden, 1, norm_layer=BatchNorm),
                    Conv2dNormActivation(hidden, channels, 3, stride, padding, norm_layer=BatchNorm),
                )
            )
            in_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> numbered maps, the largest first."""
        maps = self.body(images)
        for layer in self.extra:
            maps[str(len(maps))] = layer(maps[str(len(maps) - 1)])
        return maps


def mobilenet_pyramid(network: Any) -> Pyramid:
    """MobileNet v1's maps of stride 16 and 32, and four smaller ones: 19, 10, 5, 3, 2 and 1 wide at 300 pixels."""
    wide = {name: network.get_submodule(name)[-1][-1][0].out_channels for name in ("layer4", "layer5")}
    return Pyramid(network, wide, [512, 256, 256, 128], [2, 2, 2, 2])


def small_pyramid(network: Any) -> Pyramid:
    """The last stage of a CIFAR ResNet and two smaller maps: 16, 8 and 4 wide at 64 pixels."""
    return Pyramid(network, {"layer3": network.fc.in_features}, [64, 64], [2, 2])


class Staircase(nn.Module):
    """StairNet's top-down path (Woo et al., https://arxiv.org/abs/1709.05788): adds deep maps to larger ones.

    P_k = conv3x3(conv1x1(C_k) + upsample(P_k+1)), followed by BatchNorm and ReLU; every P_k has the same number of
    channels, and the last is conv1x1(C_k) alone. `stairs.k` computes P_k, the input of prediction head k. The paper's
    exact layers are unknown: with MobileNet this gives its printed number of parameters, with VGG-16 it does not.

    Args:
        base: images -> {"0": map, ...}, the largest first.
        in_channels: channels of these maps.
        channels: channels of every output map.
        separable: make the 3x3 convolutions depthwise separable.
    """

    def __init__(self, base: nn.Module, in_channels: Sequence[int], channels: int, separable: bool) -> None:
        super().__init__()
        self.base = base
        self.lateral = nn.ModuleList(
            Conv2dNormActivation(wide, channels, 1, norm_layer=BatchNorm, activation_layer=None) for wide in in_channels
        )
        self.stairs = nn.ModuleList(_stair(channels, separable) for _ in in_channels[1:])
        self.stairs.append(nn.ReLU())
        self.out_channels = [channels] * len(in_channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> numbered maps, the largest first."""
        maps = list(self.base(images).values())
        outputs: list[Tensor] = []
        for features, lateral, stair in zip(maps[::-1], [*self.lateral][::-1], [*self.stairs][::-1], strict=True):
            combined = lateral(features)
            if outputs:
                combined = combined + F.interpolate(outputs[0], combined.shape[-2:], mode="nearest")
            outputs.insert(0, stair(combined))
        return OrderedDict((str(level), features) for level, features in enumerate(outputs))


def _stair(channels: int, separable: bool) -> nn.Sequential:
    if not separable:
        return Conv2dNormActivation(channels, channels, 3, norm_layer=BatchNorm)
    return nn.Sequential(
        Conv2dNormActivation(channels, channels, 3, groups=channels, norm_layer=BatchNorm),
        Conv2dNormActivation(channels, channels, 1, norm_layer=BatchNorm),
    )
