"""MobileNet v1: depthwise separable convolutions."""

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from bam.models.cifar import initialize


class MobileNet(nn.Module):
    """MobileNet v1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1), with its layers grouped by size.

    `layer1` works at 1/2 of the image size, `layer5` at 1/32. Each block is a depthwise 3x3 and a 1x1 convolution, both
    followed by BatchNorm and ReLU.

    Args:
        width: the paper's width multiplier alpha; channel counts are rounded down.
        num_classes: outputs.
    """

    input_size = (3, 224, 224)

    def __init__(self, width: float, num_classes: int) -> None:
        super().__init__()
        stem, *stages = (
            [int(channels * width) for channels in stage]
            for stage in ([32], [64], [128] * 2, [256] * 2, [512] * 6, [1024] * 2)
        )
        self.conv1 = Conv2dNormActivation(3, stem[0], 3, 2)
        self.layer1 = _stage(stem[0], stages[0], stride=1)
        self.layer2 = _stage(stages[0][0], stages[1], stride=2)
        self.layer3 = _stage(stages[1][0], stages[2], stride=2)
        self.layer4 = _stage(stages[2][0], stages[3], stride=2)
        self.layer5 = _stage(stages[3][0], stages[4], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(stages[4][0], num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.avgpool(self.layer5(self.layer4(x)))
        return self.fc(torch.flatten(x, 1))


def _stage(channels: int, widths: list[int], stride: int) -> nn.Sequential:
    first = _block(channels, widths[0], stride)
    return nn.Sequential(first, *(_block(before, after, 1) for before, after in zip(widths, widths[1:], strict=False)))


def _block(channels: int, out: int, stride: int) -> nn.Sequential:
    depthwise = Conv2dNormActivation(channels, channels, 3, stride, groups=channels)
    return nn.Sequential(depthwise, Conv2dNormActivation(channels, out, 1))
