"""Backbones of SSD that torchvision lacks: maps of a network with smaller ones after them, and the way back up."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from bam.attention.batchnorm import BatchNorm
from bam.private import stages_getter


class Pyramid(nn.Module):
    """Maps of some stages of a network, and of further convolutions that halve them: images -> {"0": map, ...}.

    Args:
        network: a classification network.
        stages: its modules whose outputs are the first maps, by name and with their channels.
        extra: channels of the further maps.
        strides: stride of each; where it is 1, the map shrinks by having no padding (3 x 3 to 1 x 1).
    """

    def __init__(self, network: Any, stages: dict[str, int], extra: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.body = stages_getter(network, {name: str(level) for level, name in enumerate(stages)})
        self.extra = nn.ModuleList()
        self.out_channels = [*stages.values(), *extra]
        before = self.out_channels[len(stages) - 1]
        for channels, stride in zip(extra, strides, strict=True):
            hidden = channels // 2
            padding = 1 if stride > 1 else 0
            self.extra.append(
                nn.Sequential(
                    Conv2dNormActivation(before, hidden, 1, norm_layer=BatchNorm),
                    Conv2dNormActivation(hidden, channels, 3, stride, padding, norm_layer=BatchNorm),
                )
            )
            before = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> the maps by their number, the largest first."""
        maps = self.body(images)
        for layer in self.extra:
            maps[str(len(maps))] = layer(maps[str(len(maps) - 1)])
        return maps


def mobilenet_pyramid(network: Any) -> Pyramid:
    """The maps of strides 16 and 32 of MobileNet v1 and four further ones: 19, 10, 5, 3, 2 and 1 wide at 300 pixels."""
    wide = {name: network.get_submodule(name)[-1][-1][0].out_channels for name in ("layer4", "layer5")}
    return Pyramid(network, wide, [512, 256, 256, 128], [2, 2, 2, 2])


def small_pyramid(network: Any) -> Pyramid:
    """The last stage of a CIFAR ResNet and two further maps: 16, 8 and 4 wide at 64 pixels."""
    return Pyramid(network, {"layer3": network.fc.in_features}, [64, 64], [2, 2])


class Staircase(nn.Module):
    """StairNet's top-down path (Woo et al., https://arxiv.org/abs/1709.05788): deep maps are added to larger ones.

    P_k = conv3x3(conv1x1(C_k) + upsample(P_k+1)), normalised and rectified, all with the same number of channels; the
    last is conv1x1(C_k) alone. `stairs.k` makes P_k, which prediction head number k reads. The paper's own layers were
    not at hand: with MobileNet this gives its printed number of parameters, with VGG-16 it does not.

    Args:
        base: images -> {"0": map, ...}, the largest first.
        in_channels: of these maps.
        channels: of all maps that come out.
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
        """(N, 3, H, W) -> the maps by their number, the largest first."""
        maps = list(self.base(images).values())
        found: list[Tensor] = []
        for features, lateral, stair in zip(maps[::-1], [*self.lateral][::-1], [*self.stairs][::-1], strict=True):
            combined = lateral(features)
            if found:
                combined = combined + F.interpolate(found[0], combined.shape[-2:], mode="nearest")
            found.insert(0, stair(combined))
        return OrderedDict((str(level), features) for level, features in enumerate(found))


def _stair(channels: int, separable: bool) -> nn.Sequential:
    if not separable:
        return Conv2dNormActivation(channels, channels, 3, norm_layer=BatchNorm)
    return nn.Sequential(
        Conv2dNormActivation(channels, channels, 3, groups=channels, norm_layer=BatchNorm),
        Conv2dNormActivation(channels, channels, 1, norm_layer=BatchNorm),
    )
