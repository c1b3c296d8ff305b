"""Detectors, segmentation networks: sites in the backbone, exact identity, one training step."""

import copy
import os

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

import bam
from tests.conftest import restless

BODY = "backbone.body"
DETECTORS = {
    "fasterrcnn_resnet50_fpn": [f"{BODY}.layer1", f"{BODY}.layer2", f"{BODY}.layer3"],
    "fasterrcnn_mobilenet_v3_large_320_fpn": [f"{BODY}.3", f"{BODY}.6", f"{BODY}.12"],
    "maskrcnn_resnet50_fpn": [f"{BODY}.layer1", f"{BODY}.layer2", f"{BODY}.layer3"],
    "retinanet_resnet50_fpn": [f"{BODY}.layer1", f"{BODY}.layer2", f"{BODY}.layer3"],
    "fcos_resnet50_fpn": [f"{BODY}.layer1", f"{BODY}.layer2", f"{BODY}.layer3"],
    "ssd300_vgg16": ["backbone.features.3", "backbone.features.8", "backbone.features.15"],
    "ssdlite320_mobilenet_v3_large": ["backbone.features.0.3", "backbone.features.0.6", "backbone.features.0"],
}
SEGMENTATION = {
    "deeplabv3_resnet50": ["backbone.relu", "backbone.layer1"],
    "fcn_resnet50": ["backbone.relu", "backbone.layer1"],
    "lraspp_mobilenet_v3_large": ["backbone.1", "backbone.3", "backbone.6"],
}


def outputs(model, images):
    torch.manual_seed(0)
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, torch.Tensor)]


def check_exact_identity(model, images, sites):
    expected = outputs(model.eval(), images)
    assert sum(value.numel() for value in expected) > 0
    bam.attach(model, identity=True)
    assert set(bam.attended(model)) == set(sites)
    found = outputs(model, images)
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))


def check_training_step(model, loss):
    attention = bam.attended(model)
    for module in attention.values():
        nn.init.ones_(module.scale)
    loss(model.train()).backward()
    for module in attention.values():
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())
        assert any(p.grad.abs().max() > 0 for p in module.parameters())
        before = module.scale.clone()
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        assert not torch.equal(module.scale, before)


@pytest.mark.parametrize("name", list(DETECTORS))
def test_torchvision_detectors(name):
    torch.manual_seed(0)
    small = {} if "ss" in name[:3] else {"min_size": 96, "max_size": 128}
    model = get_model(name, weights=None, weights_backbone=None, num_classes=4, **small)
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 96)]
    if "resnet50" in name or name.startswith("ss"):  # as trained: untrained detectors score nothing
        restless(model)
    getattr(model, "roi_heads", model).score_thresh = 0.0
    check_exact_identity(model, images, DETECTORS[name])
    boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": torch.ones(1, 96, 128, dtype=torch.uint8)}
    # Two images: the plain SSDlite has a batch norm on a 1 x 1 map.
    check_training_step(model, lambda m: sum(m([images[0], images[0]], [target, target]).values()))


def test_one_image_in_training_is_enough():
    """The released BAM fails here: its channel branch normalises one value per channel."""
    model = get_model("fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None, num_classes=2)
    bam.attach(model)
    target = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 50.0]]), "labels": torch.tensor([1])}
    losses = model.train()([torch.rand(3, 96, 96)], [target])
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("attended_first", [False, True])
def test_frozen_layers_of_torchvision_stay_frozen(attended_first):
    backbone = get_model("resnet18")
    if attended_first:
        bam.attach(backbone)
    body = _resnet_fpn_extractor(backbone, trainable_layers=2)  # layer3 and layer4
    if not attended_first:
        bam.attach(body.body, image=64)
    for name, parameter in body.body.named_parameters():
        inside = name.startswith(("layer3", "layer4")) or (".attention." in name and not attended_first)
        assert parameter.requires_grad == inside, name


def test_a_detector_prices_its_sites_at_the_size_it_works_at():
    model = get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None, min_size=320)
    assert [(site.height, site.stride) for site in bam.find_bottlenecks(model)] == [(80, 4), (40, 8), (20, 16)]


def test_sites_outside_of_the_backbone_can_be_named():
    model = get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None, min_size=64, max_size=64)
    (site,) = bam.select_sites(model, "backbone.fpn.layer_blocks.0", 64)
    assert (site.channels, site.height) == (256, 8)


@pytest.mark.parametrize("name", list(SEGMENTATION))
def test_torchvision_segmentation(name):
    torch.manual_seed(0)
    auxiliary = {} if "lraspp" in name else {"aux_loss": True}
    model = restless(get_model(name, weights=None, weights_backbone=None, num_classes=4, **auxiliary))
    images = torch.rand(2, 3, 64, 64)
    check_exact_identity(model, images, SEGMENTATION[name])
    check_training_step(model, lambda m: m(images)["out"].square().mean())


@pytest.mark.parametrize(
    ("kind", "encoder", "sites"),
    [
        ("Unet", "resnet18", ["encoder.layer1", "encoder.layer2", "encoder.layer3"]),
        ("Unet", "efficientnet-b0", ["encoder._blocks.2", "encoder._blocks.4", "encoder._blocks.10"]),
        ("Unet", "tu-convnext_atto", [f"encoder.model.stages_{k}" for k in (0, 1, 2)]),
        ("FPN", "resnet18", ["encoder.layer1", "encoder.layer2", "encoder.layer3"]),
        ("DeepLabV3Plus", "resnet18", ["encoder.relu", "encoder.layer1", "encoder.layer2"]),
        ("PAN", "resnet18", ["encoder.relu", "encoder.layer1", "encoder.layer2"]),
        ("UPerNet", "resnet18", ["encoder.layer1", "encoder.layer2", "encoder.layer3"]),
    ],
)
def test_segmentation_models_pytorch(kind, encoder, sites):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="comes with the dev extra")
    torch.manual_seed(0)
    model = restless(getattr(smp, kind)(encoder, encoder_weights=None, classes=3))
    images = torch.rand(2, 3, 128, 128)
    check_exact_identity(model, images, sites)
    check_training_step(model, lambda m: m(images).square().mean())


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml"])
def test_ultralytics_yolo(name, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setitem(os.environ, "YOLO_OFFLINE", "1")
    tasks = pytest.importorskip("ultralytics.nn.tasks", reason="comes with the dev extra")
    torch.manual_seed(0)
    model = restless(tasks.DetectionModel(name, nc=4, verbose=False))
    images = torch.rand(2, 3, 64, 64)
    plain = copy.deepcopy(model)
    check_exact_identity(model, images, ["model.2", "model.4", "model.6"])
    assert list(model.state_dict())[0] == list(plain.state_dict())[0]

    def loss(m):
        return sum(leaf.square().mean() for leaf in tree_leaves(m(images)) if isinstance(leaf, torch.Tensor))

    check_training_step(model, loss)
