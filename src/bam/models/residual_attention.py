"""The residual attention network (Wang et al. 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bam.attention import SoftMask, mask_depth
from bam.models.cifar import initialize
from bam.models.preactivation import PreactivationBottleneck


class MaskedUnits(nn.Module):
    """The paper's attention module: a unit, then (1 + M(x)) T(x) with a trunk T of two units, then a unit (figure 2).

    Args:
        channels: C.
        depth: depth of the soft mask branch M, see `bam.attention.SoftMask`.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.before, first, second, self.after = (PreactivationBottleneck(channels, channels // 4) for _ in range(4))
        self.trunk = nn.Sequential(first, second)
        self.mask = SoftMask(channels, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W) -> (N, C, H, W)."""
        x = self.before(x)
        trunk = self.trunk(x)
        return self.after(trunk + trunk * self.mask(x).to(trunk.dtype))


class ResidualAttentionNetwork(nn.Module):
    """Attention-56 and Attention-92 (Wang et al. 2017, table 2, https://arxiv.org/abs/1704.06904).

    Each of the three stages is a pre-activation bottleneck unit that changes the shape, followed by `modules` attention
    modules. Three units follow the stages. With 1, 1, 1 modules the trunk has 56 layers, with 1, 2, 3 it has 92.

    The paper prints 31.9 and 51.3 million parameters for ImageNet; this network has 31.81 and 52.48 million. The mask
    follows the authors' published definition of Attention-56: two units at its smallest size, three more for each
    larger scale. The additional modules of Attention-92 have 20.66 million parameters here, and 19.4 million in the
    paper. Neither difference is explained, because the paper does not describe the mask in such detail.

    For small images, the stem and the widths are those of the pre-activation ResNet, and the last three units belong to
    the third stage. The trunk has the same number of layers. The paper has no table for this form.

    Args:
        modules: attention modules in each of the three stages.
        num_classes: outputs.
        small: build it for images of 32 x 32 pixels, not 224 x 224.
    """

    def __init__(self, modules: Sequence[int], num_classes: int, *, small: bool = False) -> None:
        super().__init__()
        self.small = small
        side, width = (32, 16) if small else (56, 64)
        self.input_size = (3, 32, 32) if small else (3, 224, 224)
        self.conv1 = nn.Conv2d(3, width, 3 if small else 7, 1 if small else 2, padding=1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(width, width, modules[0], side)
        self.layer2 = _stage(4 * width, 2 * width, modules[1], side // 2)
        self.layer3 = _stage(8 * width, 4 * width, modules[2], side // 4)
        out = 16 * width if small else 32 * width
        last = [PreactivationBottleneck(out, out // 4) for _ in range(2)]
        last.insert(0, PreactivationBottleneck(16 * width, out // 4, stride=1 if small else 2))
        if small:
            self.layer3.extend(last)
        else:
            self.layer4 = nn.Sequential(*last)
        self.bn = nn.BatchNorm2d(out)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(out, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = x if self.small else self.layer4(x)
        return self.fc(torch.flatten(self.avgpool(self.relu(self.bn(x))), 1))


def _stage(channels: int, width: int, modules: int, side: int) -> nn.Sequential:
    """A unit from `channels` to 4 * width, and attention modules for maps of `side` x `side` at the design size."""
    first = PreactivationBottleneck(channels, width, stride=1 if channels == width else 2)
    return nn.Sequential(first, *(MaskedUnits(4 * width, mask_depth(side, side)) for _ in range(modules)))
