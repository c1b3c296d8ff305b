"""An ImageNet ResNet that torchvision lacks, and the position of the stride in bottleneck blocks."""

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from bam.models.preactivation import PreactivationBottleneck


class WideResNet18(ResNet):
    """ResNet-18 with wider stages (Zagoruyko & Komodakis 2016, section 3, https://arxiv.org/abs/1605.07146).

    The stem keeps its 64 channels; the stages have 64, 128, 256 and 512 times `widen` channels.
    """

    input_size = (3, 224, 224)

    def __init__(self, widen: float, num_classes: int) -> None:
        self.widen = widen  # before the constructor, which builds the stages and needs it
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes)
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        return super()._make_layer(block, int(planes * self.widen), *args, **kwargs)


def stride_first(model: nn.Module) -> nn.Module:
    """Move the stride of each bottleneck block from the 3x3 to the first 1x1 convolution, in place; returns `model`.

    This is "v1", as in He et al. 2016 (https://arxiv.org/abs/1512.03385) and the paper's counts. torchvision has the
    stride in the 3x3 ("v1.5"), which costs more and is more accurate. Parameters and their names are the same.
    """
    for block in _bottlenecks(model):
        if block.conv2.stride != (1, 1):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return model


def strided_kernel(model: nn.Module) -> str:
    """The convolution that down-samples in the bottleneck blocks, "1x1" or "3x3"; "" if there are no such blocks."""
    strided = [conv for block in _bottlenecks(model) for conv in (block.conv1, block.conv2) if conv.stride != (1, 1)]
    return "{}x{}".format(*strided[0].kernel_size) if strided else ""


def _bottlenecks(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Bottleneck | PreactivationBottleneck)]
