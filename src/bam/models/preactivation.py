"""Pre-activation residual networks: BatchNorm and ReLU come before each convolution."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bam.models.cifar import initialize


class PreactivationBasicBlock(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and ReLU.

    He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 1b, https://arxiv.org/abs/1603.05027. The
    output of `conv2` is added to the shortcut; a projecting shortcut starts from the activated features.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels, H, W) -> (N, width, H / stride, W / stride)."""
        activated = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(activated)
        return shortcut + self.conv2(self.relu(self.bn2(self.conv1(activated))))


class PreactivationBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after BatchNorm and ReLU.

    He et al. 2016, figure 1b, https://arxiv.org/abs/1603.05027. The output of `conv3` is added to the shortcut; a
    projecting shortcut starts from the activated features. The 3x3 convolution has the stride, unless `stride_first`
    moves it.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.expansion * width, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, self.expansion * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, channels, H, W) -> (N, 4 * width, H / stride, W / stride)."""
        activated = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(activated)
        x = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        return shortcut + self.conv3(self.relu(self.bn3(x)))


class PreactivationResNet(nn.Module):
    """Three stages of pre-activation blocks for small images, followed by a BatchNorm and ReLU.

    With bottleneck blocks of widths 16, 32, 64 it is the pre-activation ResNet of 9 * blocks + 2 layers (He et al.
    2016, https://arxiv.org/abs/1603.05027). With basic blocks k times as wide it is the wide ResNet of 6 * blocks + 4
    layers (Zagoruyko & Komodakis 2016, table 1, https://arxiv.org/abs/1605.07146), without dropout. Names follow
    torchvision's ResNet.

    Args:
        block: PreactivationBasicBlock or PreactivationBottleneck.
        blocks: blocks per stage.
        widths: block width in each of the three stages; blocks return `block.expansion` times as many channels.
        num_classes: outputs.
    """

    input_size = (3, 32, 32)

    def __init__(
        self,
        block: type[PreactivationBasicBlock] | type[PreactivationBottleneck],
        blocks: int,
        widths: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        first, second, third = (width * block.expansion for width in widths)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(block, 16, widths[0], blocks, stride=1)
        self.layer2 = _stage(block, first, widths[1], blocks, stride=2)
        self.layer3 = _stage(block, second, widths[2], blocks, stride=2)
        self.bn = nn.BatchNorm2d(third)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.avgpool(self.relu(self.bn(x)))
        return self.fc(torch.flatten(x, 1))


def wide_resnet(depth: int, widen: int, num_classes: int) -> PreactivationResNet:
    """The wide ResNet WRN-depth-widen for CIFAR, see `PreactivationResNet`."""
    widths = [16 * widen, 32 * widen, 64 * widen]
    return PreactivationResNet(PreactivationBasicBlock, (depth - 4) // 6, widths, num_classes)


def _stage(
    block: type[PreactivationBasicBlock] | type[PreactivationBottleneck],
    channels: int,
    width: int,
    blocks: int,
    stride: int,
) -> nn.Sequential:
    out = width * block.expansion
    return nn.Sequential(block(channels, width, stride), *(block(out, width) for _ in range(blocks - 1)))


def _projection(channels: int, out: int, stride: int) -> nn.Conv2d | None:
    return None if stride == 1 and channels == out else nn.Conv2d(channels, out, 1, stride, bias=False)
