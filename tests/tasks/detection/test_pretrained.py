"""Whole detectors to start from: of one's own, and torchvision's published ones."""

import pytest
import torch
from torchvision.models import get_model

from bam.tasks.detection.build import build_detector
from bam.tasks.detection.weights import detector_normalization
from bam.training import run
from tests.tasks.detection.test_backbone import CLASSIFY, DETECT, detector


def test_a_detector_starts_from_another_whole_detector(tmp_path):
    other = detector(seed=1)
    torch.save(other.state_dict(), tmp_path / "detector.pth")
    actual, expected = detector(pretrained=str(tmp_path / "detector.pth")).state_dict(), other.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in actual.items())
    fewer = build_detector(DETECT.replace(pretrained=str(tmp_path / "detector.pth")), 4).state_dict()
    new = {key for key, value in fewer.items() if not torch.equal(value, expected[key])}
    assert new and all("classification_head" in key for key in new)
    attended = detector(pretrained=str(tmp_path / "detector.pth"), attention="bam", identity=True).state_dict()
    assert all(torch.equal(attended[key], value) for key, value in expected.items())
    with pytest.raises(ValueError, match="does not fit ssd_resnet20; missing: backbone.body.layer1.1.conv1.weight"):
        detector(model="ssd_resnet20", pretrained=str(tmp_path / "detector.pth"))


def test_images_are_normalised_as_those_of_the_whole_detector_were(tmp_path):
    """A run that began with other weights than ImageNet's tells by which numbers it normalised."""
    run(CLASSIFY, tmp_path / "plain")
    first = run(DETECT.replace(backbone=str(tmp_path / "plain")), tmp_path / "run")
    second = detector(pretrained=str(tmp_path / "run"))
    assert second.transform.image_mean == first.normalization["mean"]
    assert second.transform.image_std == first.normalization["std"]


def test_a_file_of_ones_own_is_not_normalised_as_torchvisions(tmp_path):
    first = detector(model="ssdlite320_mobilenet_v3_large")
    torch.save(first.state_dict(), tmp_path / "detector.pth")
    second = detector(model="ssdlite320_mobilenet_v3_large", pretrained=str(tmp_path / "detector.pth"))
    assert second.transform.image_mean == first.transform.image_mean


def as_published(name, state):
    """A state dict as torchvision publishes one: layers under their names of 2021, BatchNorms without counters."""
    if "ssd" in name:
        return state
    renamed = {}
    for key, value in state.items():
        for part in ("inner_blocks", "layer_blocks"):
            for k in range(4):
                key = key.replace(f"{part}.{k}.0.", f"{part}.{k}.")
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "head.classification_head" in key or "head.regression_head" in key:
            for k in (3, 2, 1, 0):
                key = key.replace(f".conv.{k}.0.", f".conv.{2 * k}.")
        if not key.endswith("num_batches_tracked"):
            renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"])
def test_torchvisions_published_detectors_fit(name, tmp_path):
    expected = get_model(name, weights=None, weights_backbone=None, num_classes=91).state_dict()
    torch.save(as_published(name, expected), tmp_path / "published.pth")
    ours = build_detector(DETECT.replace(model=name, pretrained=str(tmp_path / "published.pth")), 90)
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())


def test_nobody_tells_how_other_published_detectors_normalise():
    assert detector_normalization("fcos_resnet50_fpn", "DEFAULT", None) is None
    assert detector_normalization("ssd300_vgg16", "COCO_V1", None)[1][0] == 1 / 255
