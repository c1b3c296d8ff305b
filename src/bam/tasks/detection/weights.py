"""Weights of whole detectors, and the image normalisation that pretrained weights expect."""

import copy
from collections.abc import Sequence

from torch import nn
from torchvision.models import get_model_weights

from bam.models import weights as published
from bam.pixels import IMAGENET_MEAN, IMAGENET_STD
from bam.tasks.detection.detectors import DETECTORS, DetectorModule
from bam.tensors import check_fit, is_like, listed

_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
#: torchvision's published detectors -> (mean, deviation) of their training images, and the epsilon of their BatchNorms
#: if it differs from that of our detectors.
_PUBLISHED: dict[str, tuple[tuple[Sequence[float], Sequence[float]], float | None]] = {
    "fasterrcnn_resnet50_fpn": (_IMAGENET, 0.0),
    "fasterrcnn_mobilenet_v3_large_fpn": (_IMAGENET, 1e-5),
    "retinanet_resnet50_fpn": (_IMAGENET, 0.0),
    "ssd300_vgg16": (((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)), None),
    "ssdlite320_mobilenet_v3_large": (((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), None),
}


def load_detector(detector: DetectorModule, name: str, weights: str) -> None:
    """Load the weights of a whole detector, in place; heads for a different number of classes keep random weights.

    Args:
        detector: a detector without attention.
        name: the detector's name, used to look up torchvision's tags.
        weights: a file, the folder of a complete run, or a torchvision tag.

    Raises:
        ValueError: if they do not fit; the detector is then unchanged.
        FileNotFoundError, OSError, ImportError: as `bam.models.load_pretrained`.
    """
    source, tensors = published.read_weights(name, weights)
    state = detector.state_dict()
    heads = {key for key in state if key.startswith(("head.", "roi_heads.box_predictor."))}
    misfits = {key for key in heads if key in tensors and not is_like(tensors[key], state[key])}
    values = {key: value for key, value in tensors.items() if key not in misfits}
    common = state.keys() & values.keys()
    check_fit({key: state[key] for key in common}, {key: values[key] for key in common}, source, name)
    # Try a copy: torchvision's modules translate the names in its older files when they load them.
    missing, unknown = copy.deepcopy(detector).load_state_dict(values, strict=False)
    missing = [key for key in missing if key not in misfits]
    problems = [f"{title}: {listed(keys)}" for title, keys in (("missing", missing), ("unknown", unknown)) if keys]
    if problems:
        raise ValueError(f"{source} does not fit {name}; {'; '.join(problems)}")
    detector.load_state_dict(values, strict=False)


def detector_normalization(
    name: str, pretrained: str | None, backbone: str | None
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Per-channel mean and standard deviation, from 0 to 1, that a detector's weights expect; None if unknown.

    Args:
        name: the detector's name.
        pretrained: weights of the whole detector.
        backbone: weights of the backbone; they take precedence.
    """
    if backbone is not None:
        return _stated(DETECTORS[name].backbone, backbone)
    if _is_published(name, pretrained):
        return _PUBLISHED[name][0]
    return _stated(name, pretrained) if pretrained is not None else None


def _stated(name: str, weights: str) -> tuple[Sequence[float], Sequence[float]] | None:
    """The mean and deviation that the weights themselves state; no guess."""
    expected = published.normalization(name, weights)
    return None if expected is None or expected.source else (expected.mean, expected.std)


def _is_published(name: str, pretrained: str | None) -> bool:
    """Whether `pretrained` is a tag of one of torchvision's detectors in this table."""
    if name not in _PUBLISHED or pretrained is None:
        return False
    return pretrained.upper() in {"DEFAULT", *get_model_weights(name).__members__}


def adapt_to_published(network: nn.Module, name: str, pretrained: str | None) -> None:
    """Give BatchNorms the epsilon of torchvision's published detector, if `pretrained` is one of its tags."""
    epsilon = _PUBLISHED[name][1] if _is_published(name, pretrained) else None
    for module in network.modules():
        if epsilon is not None and isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon
