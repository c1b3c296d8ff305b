"""Networks for small images (32 x 32): a 3x3 stem of stride 1 and no max-pool."""

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, get_model
from torchvision.models.resnet import BasicBlock, Bottleneck


class SmallResNet(nn.Module):
    """The CIFAR ResNet: three stages of residual blocks; each stage halves the size and doubles the width.

    With basic blocks it has 6 * blocks + 2 layers (He et al. 2016, section 4.2, https://arxiv.org/abs/1512.03385). With
    grouped bottleneck blocks and a stem of 64 channels it is a ResNeXt of 9 * blocks + 2 layers (Xie et al. 2017,
    section 5.3, https://arxiv.org/abs/1611.05431). Shortcuts that change the shape are 1x1 convolutions (option B).
    Names follow torchvision's ResNet.

    Args:
        blocks: residual blocks per stage.
        num_classes: outputs.
        block: torchvision's BasicBlock or Bottleneck.
        channels: width of the stem and of the first stage's blocks.
        groups: ResNeXt's cardinality, for bottleneck blocks: groups of the 3x3 convolution, each with `channels`
            channels in the first stage.
    """

    input_size = (3, 32, 32)

    def __init__(
        self,
        blocks: int,
        num_classes: int,
        *,
        block: type[BasicBlock | Bottleneck] = BasicBlock,
        channels: int = 16,
        groups: int = 1,
    ) -> None:
        super().__init__()
        out = channels * block.expansion
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(block, channels, channels, blocks, stride=1, groups=groups)
        self.layer2 = _stage(block, out, 2 * channels, blocks, stride=2, groups=groups)
        self.layer3 = _stage(block, 2 * out, 4 * channels, blocks, stride=2, groups=groups)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * out, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def from_torchvision(name: str, num_classes: int) -> nn.Module:
    """torchvision's ResNet `name` with the CIFAR stem: a 3x3 convolution of stride 1 and no max-pool."""
    model = get_model(name, num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    initialize(model.conv1)
    model.maxpool = nn.Identity()
    model.input_size = (3, 32, 32)
    return model


def densenet_bc(blocks: int, growth_rate: int, num_classes: int) -> DenseNet:
    """DenseNet-BC for CIFAR: three dense blocks of `blocks` bottleneck layers, 6 * blocks + 4 layers in total.

    Huang et al. 2017, sections 3 and 4.2, https://arxiv.org/abs/1608.06993. The stem is a 3x3 convolution to twice the
    growth rate, directly followed by the first dense block; transitions halve the channels.
    """
    stem = 2 * growth_rate
    model = DenseNet(growth_rate, (blocks,) * 3, stem, num_classes=num_classes)
    model.features.conv0 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.features.conv0.weight)  # as torchvision's DenseNet does
    for name in ("norm0", "relu0", "pool0"):
        delattr(model.features, name)
    model.input_size = (3, 32, 32)
    return model


def initialize(model: nn.Module) -> None:
    """Initialise the convolutions by fan-out (He et al. 2015, https://arxiv.org/abs/1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(
    block: type[BasicBlock | Bottleneck], channels: int, width: int, blocks: int, stride: int, groups: int
) -> nn.Sequential:
    """Residual blocks with width * expansion output channels; the first takes `channels` and may down-sample."""
    out = width * block.expansion
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    first = block(channels, width, stride, shortcut, groups=groups)
    return nn.Sequential(first, *(block(out, width, groups=groups) for _ in range(blocks - 1)))
