"""Weights of whole detectors, and what images are to be normalised by where weights come from elsewhere."""

import copy
from collections.abc import Sequence

from torch import nn
from torchvision.models import get_model_weights

from bam.models import weights as published
from bam.pixels import IMAGENET_MEAN, IMAGENET_STD
from bam.tasks.detection.detectors import DETECTORS, DetectorModule
from bam.tensors import check_fit, is_like, listed

_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
#: By which mean, deviation and epsilon of BatchNorms torchvision's published detectors were trained, where it is not by
#: those that ours have here.
_PUBLISHED: dict[str, tuple[tuple[Sequence[float], Sequence[float]], float | None]] = {
    "fasterrcnn_resnet50_fpn": (_IMAGENET, 0.0),
    "fasterrcnn_mobilenet_v3_large_fpn": (_IMAGENET, 1e-5),
    "retinanet_resnet50_fpn": (_IMAGENET, 0.0),
    "ssd300_vgg16": (((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)), None),
    "ssdlite320_mobilenet_v3_large": (((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), None),
}


def load_detector(detector: DetectorModule, name: str, weights: str) -> None:
    """Load a whole detector, in place; predictions for other classes than these keep their random weights.

    Args:
        detector: plain, without attention.
        name: of the detector, for tags of torchvision.
        weights: a file, the folder of a complete run, or a tag of torchvision.

    Raises:
        ValueError: if they do not fit; the detector is then unchanged.
        FileNotFoundError, OSError, ImportError: as `bam.models.load_pretrained`.
    """
    source, tensors = published.read_weights(name, weights)
    own = detector.state_dict()
    heads = {key for key in own if key.startswith(("head.", "roi_heads.box_predictor."))}
    other = {key for key in heads if key in tensors and not is_like(tensors[key], own[key])}
    values = {key: value for key, value in tensors.items() if key not in other}
    common = own.keys() & values.keys()
    check_fit({key: own[key] for key in common}, {key: values[key] for key in common}, source, name)
    # torchvision's modules know the names that they had when its files were written.
    missing, unknown = copy.deepcopy(detector).load_state_dict(values, strict=False)
    lacking = [key for key in missing if key not in other]
    problems = [f"{title}: {listed(keys)}" for title, keys in (("missing", lacking), ("unknown", unknown)) if keys]
    if problems:
        raise ValueError(f"{source} does not fit {name}; {'; '.join(problems)}")
    detector.load_state_dict(values, strict=False)


def normalization(
    name: str, pretrained: str | None, backbone: str | None
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and deviation that the images had with which a detector's weights were trained; None where nobody tells.

    Args:
        name: of the detector.
        pretrained: the weights of all of it.
        backbone: the weights of its backbone, instead.
    """
    if backbone is not None:
        return published.normalization(DETECTORS[name].backbone, backbone)
    if _is_published(name, pretrained):
        return _PUBLISHED[name][0]
    return published.normalization(name, pretrained) if pretrained is not None else None


def _is_published(name: str, pretrained: str | None) -> bool:
    """Whether these are the weights of one of torchvision's own detectors of this table."""
    if name not in _PUBLISHED or pretrained is None:
        return False
    return pretrained.upper() in {"DEFAULT", *get_model_weights(name).__members__}


def adapt_to_published(network: nn.Module, name: str, pretrained: str | None) -> None:
    """Give BatchNorms the epsilon of the published detector, if its weights are those."""
    epsilon = _PUBLISHED[name][1] if _is_published(name, pretrained) else None
    for module in network.modules():
        if epsilon is not None and isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon
