"""Detectors by name: torchvision's detectors, built around a classification network, pretrained or not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from bam.attention import AttentionSpec
from bam.attention.batchnorm import BatchNorm
from bam.placement import BOTTLENECKS
from bam.private import changes_resolution
from bam.tasks.detection.pyramids import Staircase, mobilenet_pyramid, small_pyramid

#: One of torchvision's detectors; they have no common type.
DetectorModule = Any


@dataclass(frozen=True)
class Detector:
    """A named detector.

    assemble(network, num_outputs, **options) builds it around a plain classification network, without its classifier;
    num_outputs includes the background. The options are those of torchvision's detector.
    """

    backbone: str  #: name of the network in `bam.models`
    source: str  #: the paper that describes it
    assemble: Callable[..., DetectorModule]
    sites: tuple[str, ...] | None = None  #: where "bottlenecks" are, by its paper; None for those of the network
    #: Builds the network to train from scratch, if it differs from the one with classification weights.
    from_scratch: Callable[[], nn.Module] | None = None

    def placed(self, spec: AttentionSpec) -> tuple[str, ...]:
        """The sites of `spec` in this detector."""
        requested = spec.placed()
        return self.sites if self.sites and requested == (BOTTLENECKS,) else requested


def _resnet_fpn(network: Any, first: int, extra: ExtraFPNBlock) -> BackboneWithFPN:
    """A feature pyramid on the stages of a ResNet, starting at stage `first`."""
    stages = range(first, 5)
    channels = [network.inplanes // 2 ** (4 - stage) for stage in stages]
    return BackboneWithFPN(network, {f"layer{k}": str(k - first) for k in stages}, channels, 256, extra_blocks=extra)


def faster_rcnn_resnet(network: Any, num_outputs: int, **options: Any) -> FasterRCNN:
    """Faster R-CNN on a feature pyramid of a ResNet's four stages, as in torchvision."""
    return FasterRCNN(_resnet_fpn(network, 1, LastLevelMaxPool()), num_outputs, **options)


def retinanet_resnet(network: Any, num_outputs: int, **options: Any) -> RetinaNet:
    """RetinaNet on a feature pyramid of a ResNet's last three stages, as in torchvision."""
    return RetinaNet(_resnet_fpn(network, 2, LastLevelP6P7(256, 256)), num_outputs, **options)


def faster_rcnn_mobilenet(network: Any, num_outputs: int, **options: Any) -> FasterRCNN:
    """Faster R-CNN on a feature pyramid of MobileNetV3's last two scales, as in torchvision."""
    layers = network.features
    starts = [0, *(k for k, layer in enumerate(layers) if changes_resolution(layer)), len(layers) - 1]
    channels = [layers[k].out_channels for k in starts[-2:]]
    names = {str(k): str(level) for level, k in enumerate(starts[-2:])}
    pyramid = BackboneWithFPN(layers, names, channels, 256, extra_blocks=LastLevelMaxPool())
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return FasterRCNN(pyramid, num_outputs, **{"rpn_anchor_generator": anchors, "rpn_score_thresh": 0.05} | options)


def _ssd300_anchors() -> DefaultBoxGenerator:
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    return DefaultBoxGenerator(ratios, scales=scales, steps=[8, 16, 32, 64, 100, 300])


def ssd300_vgg(network: Any, num_outputs: int, **options: Any) -> SSD:
    """SSD300, as in torchvision."""
    backbone = SSDFeatureExtractorVGG(network.features, highres=False)
    return SSD(backbone, _ssd300_anchors(), (300, 300), num_outputs, **options)


def stairnet300_vgg(network: Any, num_outputs: int, **options: Any) -> SSD:
    """StairNet on SSD300's six maps, each with 256 channels; the paper puts one attention module on each."""
    base = SSDFeatureExtractorVGG(network.features, highres=False)
    backbone = Staircase(base, [512, 1024, 512, 256, 256, 256], 256, separable=False)
    anchors = DefaultBoxGenerator([[2, 3]] * 6, scales=_ssd300_anchors().scales, steps=_ssd300_anchors().steps)
    return SSD(backbone, anchors, (300, 300), num_outputs, **options)


def ssdlite_mobilenet(network: Any, num_outputs: int, **options: Any) -> SSD:
    """SSDlite320, as in torchvision, but its BatchNorms also accept one image per step."""
    norm = partial(BatchNorm, eps=0.001, momentum=0.03)
    layers = network.features
    last = max(k for k, layer in enumerate(layers) if changes_resolution(layer))
    backbone = SSDLiteFeatureExtractorMobileNet(layers, last, norm)
    anchors = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    channels = [layers[last].block[0].out_channels, layers[-1].out_channels, 512, 256, 256, 128]
    head = SSDLiteHead(channels, anchors.num_anchors_per_location(), num_outputs, norm)
    defaults = {"score_thresh": 0.001, "nms_thresh": 0.55, "detections_per_img": 300, "topk_candidates": 300}
    return SSD(backbone, anchors, (320, 320), num_outputs, head=head, **defaults | options)


def ssd300_mobilenet(network: Any, num_outputs: int, **options: Any) -> SSD:
    """SSD300 on MobileNet v1 with 1x1 convolutions as predictors; it has the paper's 5.81 M parameters."""
    backbone = mobilenet_pyramid(network)
    return _predicting_ssd(backbone, (300, 300), num_outputs, kernel=1, **options)


def stairnet300_mobilenet(network: Any, num_outputs: int, **options: Any) -> SSD:
    """StairNet on the maps of `ssd300_mobilenet`, with 128 channels and depthwise separable convolutions."""
    base = mobilenet_pyramid(network)
    backbone = Staircase(base, base.out_channels, 128, separable=True)
    return _predicting_ssd(backbone, (300, 300), num_outputs, kernel=1, **options)


def ssd_small(network: Any, num_outputs: int, *, size: int = 64, **options: Any) -> SSD:
    """A small SSD on the last stage of a CIFAR ResNet, for images of about 64 pixels."""
    return _predicting_ssd(small_pyramid(network), (size, size), num_outputs, kernel=3, **options)


def _predicting_ssd(backbone: Any, size: tuple[int, int], num_outputs: int, *, kernel: int, **options: Any) -> SSD:
    """An SSD with default boxes of 0.2 to 0.9 of the image: four per position in the first map, six in the others."""
    ratios = [[2], *([[2, 3]] * (len(backbone.out_channels) - 1))]
    anchors = DefaultBoxGenerator(ratios, min_ratio=0.2, max_ratio=0.9)
    model: DetectorModule = SSD(backbone, anchors, size, num_outputs, **options)
    if kernel == 1:
        for head in (model.head.classification_head, model.head.regression_head):
            for k, conv in enumerate(head.module_list):
                head.module_list[k] = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
                nn.init.xavier_uniform_(head.module_list[k].weight)
                nn.init.zeros_(head.module_list[k].bias)
    return model


_FASTER = "Ren et al., arXiv 1506.01497; Lin et al., arXiv 1612.03144"
_RETINA = "Lin et al., arXiv 1708.02002"
_SSD = "Liu et al., arXiv 1512.02325"
_STAIR = "Woo et al., arXiv 1709.05788"
_HEADS = ("backbone.stairs.?",)

#: Name -> detector. If torchvision has a detector of that name, modules and state-dict keys have the same names.
DETECTORS: dict[str, Detector] = {
    "fasterrcnn_resnet50_fpn": Detector("resnet50", _FASTER, faster_rcnn_resnet),
    "fasterrcnn_resnet101_fpn": Detector("resnet101", _FASTER, faster_rcnn_resnet),
    "fasterrcnn_mobilenet_v3_large_fpn": Detector("mobilenet_v3_large", _FASTER, faster_rcnn_mobilenet),
    "retinanet_resnet50_fpn": Detector("resnet50", _RETINA, retinanet_resnet),
    "ssd300_vgg16": Detector("vgg16", _SSD, ssd300_vgg),
    "ssdlite320_mobilenet_v3_large": Detector(
        "mobilenet_v3_large", _SSD, ssdlite_mobilenet, from_scratch=partial(mobilenet_v3_large, reduced_tail=True)
    ),
    "ssd300_mobilenet": Detector("paper/mobilenet", _SSD, ssd300_mobilenet),
    "stairnet300_vgg16": Detector("vgg16", _STAIR, stairnet300_vgg, _HEADS),
    "stairnet300_mobilenet": Detector("paper/mobilenet", _STAIR, stairnet300_mobilenet, _HEADS),
    "ssd_resnet8": Detector("cifar/resnet8", _SSD, ssd_small),
    "ssd_resnet20": Detector("cifar/resnet20", _SSD, ssd_small),
}
