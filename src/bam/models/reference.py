"""The paper's networks by name, and a few smaller ones."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision.models import get_model
from torchvision.models.resnet import Bottleneck

from bam.models.cifar import SmallResNet, densenet_bc, from_torchvision
from bam.models.mobilenet import MobileNet
from bam.models.preactivation import PreactivationBottleneck, PreactivationResNet, wide_resnet
from bam.models.residual import WideResNet18, stride_first
from bam.models.residual_attention import ResidualAttentionNetwork

_RESNET = "He et al., arXiv 1512.03385"
_PRERESNET = "He et al., arXiv 1603.05027"
_WIDE = "Zagoruyko & Komodakis, arXiv 1605.07146"
_RESNEXT = "Xie et al., arXiv 1611.05431"
_DENSENET = "Huang et al., arXiv 1608.06993"
_ATTENTION = "Wang et al., arXiv 1704.06904"
_MOBILENET = "Howard et al., arXiv 1704.04861"


@dataclass(frozen=True)
class Network:
    """A named network: calling it with a number of classes builds it with random weights."""

    source: str  #: the paper that describes it
    builder: Callable[[int], nn.Module]
    num_classes: int = 100  #: the default: the number in the data set it was designed for

    def __call__(self, num_classes: int) -> nn.Module:
        """Build the network with that many outputs; its `input_size` is its design image size."""
        return self.builder(num_classes)


def _imagenet(source: str, builder: Callable[[int], nn.Module]) -> Network:
    return Network(source, builder, num_classes=1000)


def _original(name: str, classes: int) -> nn.Module:
    """torchvision's network with the strides of its paper."""
    model = get_model(name, num_classes=classes)
    model.input_size = (3, 224, 224)
    return stride_first(model)


def _preresnet110(classes: int) -> nn.Module:
    """The paper's "PreResNet110": its counts match 3 x 18 bottleneck blocks, which have 164 layers."""
    return PreactivationResNet(PreactivationBottleneck, 18, (16, 32, 64), classes)


def _resnext29(groups: int, classes: int) -> nn.Module:
    return SmallResNet(3, classes, block=Bottleneck, channels=64, groups=groups)


#: Name -> builder(num_classes). In networks with the suffix _v1, and in all of paper/, the first 1x1 convolution of a
#: bottleneck block has the stride, as the BAM paper's counts imply. torchvision's and timm's networks have their
#: own names, see `bam.models.build`.
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "cifar/resnet8": Network(_RESNET, lambda classes: SmallResNet(1, classes)),
    "cifar/resnet20": Network(_RESNET, lambda classes: SmallResNet(3, classes)),
    "cifar/resnet110": Network(_RESNET, lambda classes: SmallResNet(18, classes)),
    "cifar/resnet18": Network(_RESNET, lambda classes: from_torchvision("resnet18", classes)),
    "cifar/resnet34": Network(_RESNET, lambda classes: from_torchvision("resnet34", classes)),
    "cifar/resnet50": Network(_RESNET, lambda classes: from_torchvision("resnet50", classes)),
    "cifar/resnet50_v1": Network(_RESNET, lambda classes: stride_first(from_torchvision("resnet50", classes))),
    "cifar/resnet101": Network(_RESNET, lambda classes: from_torchvision("resnet101", classes)),
    "cifar/resnet101_v1": Network(_RESNET, lambda classes: stride_first(from_torchvision("resnet101", classes))),
    "cifar/preresnet110": Network(_PRERESNET, _preresnet110),
    "cifar/preresnet110_v1": Network(_PRERESNET, lambda classes: stride_first(_preresnet110(classes))),
    "cifar/wide_resnet28_8": Network(_WIDE, lambda classes: wide_resnet(28, 8, classes)),
    "cifar/wide_resnet28_10": Network(_WIDE, lambda classes: wide_resnet(28, 10, classes)),
    "cifar/resnext29_8x64d": Network(_RESNEXT, lambda classes: _resnext29(8, classes)),
    "cifar/resnext29_8x64d_v1": Network(_RESNEXT, lambda classes: stride_first(_resnext29(8, classes))),
    "cifar/resnext29_16x64d": Network(_RESNEXT, lambda classes: _resnext29(16, classes)),
    "cifar/resnext29_16x64d_v1": Network(_RESNEXT, lambda classes: stride_first(_resnext29(16, classes))),
    "cifar/densenet100_bc": Network(_DENSENET, lambda classes: densenet_bc(16, 12, classes)),
    "cifar/attention56": Network(_ATTENTION, lambda n: ResidualAttentionNetwork((1, 1, 1), n, small=True)),
    "cifar/attention92": Network(_ATTENTION, lambda n: ResidualAttentionNetwork((1, 2, 3), n, small=True)),
    "imagenet/attention56": _imagenet(_ATTENTION, lambda classes: ResidualAttentionNetwork((1, 1, 1), classes)),
    "imagenet/attention92": _imagenet(_ATTENTION, lambda classes: ResidualAttentionNetwork((1, 2, 3), classes)),
    "paper/resnet50": _imagenet(_RESNET, lambda classes: _original("resnet50", classes)),
    "paper/resnet101": _imagenet(_RESNET, lambda classes: _original("resnet101", classes)),
    "paper/resnext50_32x4d": _imagenet(_RESNEXT, lambda classes: _original("resnext50_32x4d", classes)),
    "paper/wide_resnet18_1.5": _imagenet(_WIDE, lambda classes: WideResNet18(1.5, classes)),
    "paper/wide_resnet18_2.0": _imagenet(_WIDE, lambda classes: WideResNet18(2.0, classes)),
    "paper/mobilenet": _imagenet(_MOBILENET, lambda classes: MobileNet(1.0, classes)),
    "paper/mobilenet_0.7": _imagenet(_MOBILENET, lambda classes: MobileNet(0.7, classes)),
}
