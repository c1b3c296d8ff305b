"""Every detector by name: its size, torchvision's keys and outputs, exact identity, one image a step."""

import copy
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torchvision.models import get_model, list_models

import bam
from bam.recipes import RECIPES, DetectionRecipe
from bam.tasks.detection.build import build_detector
from bam.tasks.detection.cost import detector_cost, input_size
from bam.tasks.detection.detectors import DETECTORS
from bam.tasks.detection.task import Detection
from tests.conftest import restless

#: Of which some tests are left out: slow, and of the same parts as others.
ALIKE = ("fasterrcnn_resnet101_fpn", "stairnet300_vgg16", "ssd_resnet20")
#: One of each kind that has BatchNorms.
FROZEN = [
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    "stairnet300_mobilenet",
    "ssd_resnet8",
]
#: Parameters at 20 classes, plain and with BAM.
SIZES = {
    "fasterrcnn_resnet50_fpn": (41_449_656, 41_811_313),
    "fasterrcnn_resnet101_fpn": (60_441_784, 60_803_441),
    "fasterrcnn_mobilenet_v3_large_fpn": (19_052_004, 19_056_307),
    "retinanet_resnet50_fpn": (32_615_969, 32_977_626),
    "ssd300_vgg16": (26_285_486, 26_442_439),
    "ssdlite320_mobilenet_v3_large": (2_469_860, 2_474_163),
    "ssd300_mobilenet": (5_808_914, 5_901_043),
    "stairnet300_vgg16": (28_694_084, 28_801_334),
    "stairnet300_mobilenet": (5_975_954, 6_004_244),
    "ssd_resnet8": (349_536, 350_055),
    "ssd_resnet20": (543_968, 544_487),
}
RESNET = ["backbone.body.layer1", "backbone.body.layer2", "backbone.body.layer3"]
STAIRS = [f"backbone.stairs.{k}" for k in range(6)]
SITES = {
    "fasterrcnn_resnet50_fpn": RESNET,
    "fasterrcnn_resnet101_fpn": RESNET,
    "fasterrcnn_mobilenet_v3_large_fpn": ["backbone.body.3", "backbone.body.6", "backbone.body.12"],
    "retinanet_resnet50_fpn": RESNET,
    "ssd300_vgg16": ["backbone.features.15", "backbone.features.22", "backbone.extra.0.6"],
    "ssdlite320_mobilenet_v3_large": ["backbone.features.0.3", "backbone.features.0.6", "backbone.features.0.12"],
    "ssd300_mobilenet": ["backbone.body.layer2", "backbone.body.layer3", "backbone.body.layer4"],
    "stairnet300_vgg16": STAIRS,
    "stairnet300_mobilenet": STAIRS,
    "ssd_resnet8": ["backbone.body.layer1", "backbone.body.layer2"],
    "ssd_resnet20": ["backbone.body.layer1", "backbone.body.layer2"],
}
SMALL = {"min_size": 96, "max_size": 128}
IMAGE = (3, 90, 120)
OBJECT = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 50.0]]), "labels": torch.tensor([3])}
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
LOSSES = Detection(DetectionRecipe())


def options_of(name):
    """Small images, few regions, and every box, however unlikely: untrained detectors are sure of nothing."""
    if name.startswith("faster"):
        return SMALL | {"rpn_post_nms_top_n_test": 50, "rpn_post_nms_top_n_train": 50, "box_score_thresh": 0.0}
    return SMALL | {"score_thresh": 0.0} if name.startswith("retina") else {"score_thresh": 0.0}


def recipe_of(name, **fields):
    return DetectionRecipe().replace(model=name, model_options=options_of(name), **fields)


def detector(name, num_classes=20, **fields):
    return build_detector(recipe_of(name, **fields), num_classes)


@dataclass
class Pair:
    """The detector of a name, plain and with attention that begins as the identity. Not to be changed."""

    name: str
    plain: Any
    attended: Any


@pytest.fixture(scope="module", params=[name for name in DETECTORS if name != "fasterrcnn_resnet101_fpn"])  # slow
def pair(request):
    name = request.param
    return Pair(name, detector(name), detector(name, attention="bam", identity=True))


def lively(model):
    """With statistics as after training; in a hundred layers, what each block adds stays small."""
    for name, module in restless(model).named_modules():
        if name.endswith("bn3"):
            nn.init.uniform_(module.weight, 0.1, 0.3)
    return model


def outputs(model, image):
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model.eval()([image])) if isinstance(leaf, torch.Tensor)]


def same(detected, expected):
    assert expected[0].numel() > 0 and len(detected) == len(expected)
    return all(map(torch.equal, detected, expected))


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_the_table_is_complete():
    assert list(SIZES) == list(SITES) == list(DETECTORS)


def test_parameters(pair):
    scalars = len(bam.attended(pair.attended))  # of the identity
    assert (count(pair.plain), count(pair.attended) - scalars) == SIZES[pair.name]


def test_attention_sits_at_the_bottlenecks_or_before_the_heads(pair):
    assert not bam.attended(pair.plain)
    assert list(bam.attended(pair.attended)) == SITES[pair.name]


def test_initial_weights_do_not_depend_on_the_attention(pair):
    plain, attended = pair.plain.state_dict(), pair.attended.state_dict()
    assert all(torch.equal(value, attended[key]) for key, value in plain.items())
    assert all(".attention." in key for key in attended.keys() - plain.keys())


def test_identity_changes_nothing(pair):
    if pair.name in ALIKE:
        return
    plain, attended = lively(copy.deepcopy(pair.plain)), copy.deepcopy(pair.attended)
    attended.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(IMAGE)
    expected = outputs(plain, image)
    assert same(outputs(attended, image), expected)
    for module in bam.attended(attended).values():
        nn.init.ones_(module.scale)
    assert not same(outputs(attended, image), expected)  # or the outputs would say nothing


def torchvisions(name):
    """torchvision's own, which normalises images by other numbers and, with MobileNet, has another epsilon."""
    given = {"weights": None, "weights_backbone": None, "num_classes": 21} | options_of(name)
    theirs = get_model(name, **given)
    theirs.transform.image_mean, theirs.transform.image_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    for module in theirs.modules():
        if "mobilenet" in name and isinstance(module, nn.BatchNorm2d):
            module.eps = 0.001
    return theirs


def settings(model):
    """Thresholds, sizes and counts of all parts by their names."""
    kinds = (bool, int, float, str, tuple, list)
    return {
        f"{name}.{key}": repr(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, kinds) and not key.startswith("_") and key not in ("momentum", "training")
    }


def test_keys_and_outputs_are_torchvisions(pair):
    if pair.name not in list_models():
        return
    theirs, ours = torchvisions(pair.name), lively(copy.deepcopy(pair.plain))
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1] and list(shapes[0]) == list(shapes[1])
    theirs.load_state_dict(ours.state_dict())
    assert settings(theirs) == settings(ours)
    image = torch.rand(IMAGE)
    assert same(outputs(theirs, image), outputs(ours, image))


def check_step(model, name):
    """One image a step; where steps take seconds, only the losses are asked for of an image without objects."""
    attention = bam.attended(model)
    for module in attention.values():
        nn.init.ones_(module.scale)
    for wanted in (OBJECT, NOTHING):
        model.train().zero_grad()
        loss, figures = LOSSES.loss(model, [torch.rand(IMAGE)], [wanted | {"number": 0}])
        assert torch.isfinite(loss) and figures["loss"] == loss and len(figures) > 2
        assert sum(value for name, value in figures.items() if name != "loss") == pytest.approx(loss.item(), rel=1e-5)
        if "vgg16" in name and wanted is NOTHING:
            continue
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
        for site, module in attention.items():
            assert all(p.grad is not None for p in module.parameters()), site
            assert wanted is NOTHING or any(p.grad.abs().max() > 0 for p in module.parameters()), site


def test_one_image_a_step_is_enough(pair):
    if pair.name in ALIKE:
        return
    check_step(copy.deepcopy(pair.attended), pair.name)


@pytest.mark.parametrize("name", FROZEN)
def test_one_image_a_step_is_enough_with_frozen_normalisation(name):
    check_step(lively(detector(name, attention="bam", identity=True, batchnorm="frozen")), name)


def test_sizes_of_several_scales_are_drawn_by_torchs_generator():
    options = {"min_size": [64, 96, 128], "max_size": 256}
    model = build_detector(
        DetectionRecipe().replace(model="fasterrcnn_mobilenet_v3_large_fpn", model_options=options), 2
    ).train()

    def sizes():
        torch.manual_seed(3)
        return [model.transform([torch.rand(3, 60, 60)])[0].image_sizes[0] for _ in range(12)]

    drawn = sizes()
    assert drawn == sizes() and set(drawn) == {(64, 64), (96, 96), (128, 128)}
    assert {model.eval().transform([torch.rand(3, 60, 60)])[0].image_sizes[0] for _ in range(5)} == {(128, 128)}
    assert input_size(model) == (128, 192)


def test_predictions_by_1x1_convolutions_start_small():
    head = detector("ssd300_mobilenet").head
    for part in (head.classification_head, head.regression_head):
        for conv in part.module_list:
            assert conv.kernel_size == (1, 1) and (conv.bias == 0).all()
            bound = (6 / (conv.in_channels + conv.out_channels)) ** 0.5
            assert 0.9 * bound < conv.weight.abs().max() <= bound


def test_other_seeds_have_other_weights():
    first, again, other = (detector("ssd_resnet8", seed=seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    for key in ("backbone.body.conv1.weight", "backbone.extra.0.0.0.weight"):
        assert not torch.equal(first[key], other[key])


def test_sites_may_be_named_in_the_network_and_in_the_detector():
    named = detector("ssd_resnet8", attention="bam", sites=["layer1", "backbone.extra.0", "before layer3"])
    assert set(bam.attended(named)) == {"backbone.body.layer1", "backbone.extra.0", "before backbone.body.layer3"}
    assert list(bam.attended(detector("ssd_resnet8", attention="se", sites=["-1"]))) == ["backbone.body.layer2"]
    blocks = bam.attended(detector("ssd_resnet8", attention="bam", sites=["every block"]))
    assert len(blocks) == 3 and all(site.startswith("backbone.body.layer") for site in blocks)
    with pytest.raises(ValueError, match="fc"):
        detector("ssd_resnet8", attention="bam", sites=["fc"])
    with pytest.raises(ValueError, match="backbone.extra.7"):
        detector("ssd_resnet8", attention="bam", sites=["backbone.extra.7"])


def test_other_detectors_of_torchvision():
    name = "fcos_resnet50_fpn"
    model = build_detector(DetectionRecipe().replace(model=name, attention="bam"), 4)
    assert list(bam.attended(model)) == RESNET
    theirs = get_model(name, weights=None, weights_backbone=None, num_classes=5).state_dict()
    plain = {key: value.shape for key, value in model.state_dict().items() if ".attention." not in key}
    assert plain == {key: value.shape for key, value in theirs.items()}
    for fields in ({"model_options": {"min_size": 96}}, {"backbone": "IMAGENET1K_V1"}):
        with pytest.raises(ValueError, match=f"model_options and backbone are for fasterrcnn.*, not for {name}"):
            build_detector(DetectionRecipe().replace(model=name, **fields), 4)


@pytest.mark.parametrize("name", ["resnet18", "cifar/resnet8", "lraspp_mobilenet_v3_large"])
def test_what_is_no_detector_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is not a detector: choose fasterrcnn_resnet50_fpn, "):
        build_detector(DetectionRecipe().replace(model=name), 4)


def test_an_unknown_model_is_reported_with_the_nearest_detectors():
    with pytest.raises(ValueError, match="unknown model 'stairnet300_mobilnet'.*stairnet300_mobilenet"):
        build_detector(DetectionRecipe().replace(model="stairnet300_mobilnet"), 4)


@pytest.mark.parametrize("option", ["min_sizes", "num_classes"])
@pytest.mark.parametrize("name", ["ssd_resnet8", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_an_unknown_option_of_a_detector_is_reported(name, option):
    with pytest.raises(ValueError, match=f"{name} with .*{option}"):
        build_detector(DetectionRecipe().replace(model=name, model_options={option: 96}), 4)


def test_an_unknown_option_of_the_attention_is_reported():
    for name in ("ssd_resnet8", "fcos_resnet50_fpn"):
        with pytest.raises(ValueError, match=r"attention bam\(ratio=8.*\): .*argument 'ratio'"):
            build_detector(DetectionRecipe().replace(model=name, attention="bam", attention_options={"ratio": 8}), 4)


def test_costs_count_what_is_dense():
    plain, attended = (detector_cost(detector("ssd_resnet8", attention=name)) for name in ("none", "bam"))
    assert attended.params - plain.params == 519 and 0 < attended.macs - plain.macs < 0.01 * plain.macs
    model = detector("ssd_resnet8")
    body = bam.cost(nn.Sequential(model.backbone.body.conv1), (3, 64, 64)).macs
    assert body == 64 * 64 * 9 * 3 * 16 < plain.macs
    two_stages = detector_cost(detector("fasterrcnn_mobilenet_v3_large_fpn"))
    assert two_stages.macs > 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * 5 * 21)  # its second stage, on 1000 regions


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe().task == "detection"])
def test_recipes_name_detectors(name):
    recipe = RECIPES[name]()
    assert recipe.model in DETECTORS and (recipe.backbone is None or recipe.batchnorm in ("batch", "frozen"))


@pytest.mark.parametrize("name", ["ssd_resnet8", "fasterrcnn_mobilenet_v3_large_fpn", "fcos_resnet50_fpn"])
def test_boxes_and_losses_are_in_full_precision(name):
    """In bfloat16, places beyond 256 pixels go by steps of two."""
    model = build_detector(DetectionRecipe().replace(model=name), 4)
    model.transform.min_size, model.transform.max_size = (96,), 128
    for part in (model, getattr(model, "roi_heads", model)):
        part.score_thresh = 0.0
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()([torch.rand(IMAGE)], [dict(OBJECT)])
        with torch.no_grad():
            (detected,) = model.eval()([torch.rand(IMAGE)])
    assert len(detected["boxes"]) and detected["boxes"].dtype == detected["scores"].dtype == torch.float32
    assert not torch.equal(detected["boxes"], detected["boxes"].bfloat16().float())
    assert all(loss.dtype == torch.float32 for loss in losses.values())


def test_ones_own_detector_must_have_the_classes_of_the_data(tmp_path, monkeypatch):
    (tmp_path / "my_detectors.py").write_text(
        "from torchvision.models import get_model\n"
        "def fixed():\n"
        "    name = 'fasterrcnn_mobilenet_v3_large_fpn'\n"
        "    return get_model(name, weights=None, weights_backbone=None, num_classes=3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = DetectionRecipe().replace(model="my_detectors:fixed")
    assert build_detector(recipe, 2).roi_heads.box_predictor.cls_score.out_features == 3
    with pytest.raises(ValueError, match="has 3 classes, but the data have 5 including the background"):
        build_detector(recipe, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": []}, "min_size must be a number of pixels, at most 8192, got []"),
        ({"size": 0}, "size must be a number of pixels, at most 8192, got 0"),
        ({"min_size": 1000000}, "min_size must be a number of pixels, at most 8192, got 1000000"),
        ({"image_mean": [0.5]}, "image_mean must be three numbers, got [0.5]"),
        ({"head": 3}, "there is no option head"),
    ],
)
def test_options_that_cannot_be_meant_are_reported(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_detector(DetectionRecipe().replace(model="ssd_resnet8", model_options=options), 4)
