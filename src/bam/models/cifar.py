"""ResNets for small images (32 x 32): a 3x3 stem and no max-pool (He et al. 2016, https://arxiv.org/abs/1512.03385)."""

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock


class SmallResNet(nn.Module):
    """The CIFAR ResNet of depth 6n + 2: three stages of n basic blocks with 16, 32 and 64 channels (section 4.2).

    Shortcuts that change the shape are 1x1 convolutions (option B). Names follow torchvision's ResNet.
    """

    input_size = (3, 32, 32)

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialize(module)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def from_torchvision(name: str, num_classes: int) -> nn.Module:
    """torchvision's ResNet `name` with the CIFAR stem: a 3x3 convolution of stride 1 and no max-pool."""
    model = get_model(name, num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    _initialize(model.conv1)
    model.maxpool = nn.Identity()
    model.input_size = (3, 32, 32)
    return model


def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or channels != width:
        shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    first = BasicBlock(channels, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))


def _initialize(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
