import json

import pytest
import torch
from safetensors.torch import load_file, save

from bam.export import from_pretrained, save_pretrained
from tests.export.test_pretrained import SMALL, small


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    save_pretrained(small(sites=["layer1", "layer2"], reduction=4), folder, **SMALL)
    tensors = load_file(folder / "model.safetensors")  # without the metadata, which would tell every change
    return json.loads((folder / "config.json").read_text()), save(tensors)


def refused(folder, config, weights):
    """What is said about a configuration beside weights that are whole."""
    (folder / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError) as raised:
        from_pretrained(folder)
    message = str(raised.value)
    assert message.startswith(f"{folder}/") and "\n" not in message
    return message.removeprefix(f"{folder}/")


WRONG = {
    "backbone": [
        (3, "expected the name of a network, got 3"),
        ("", "expected the name of a network, got ''"),
        ("resnet19", "'resnet19' cannot be built with num_classes=10: unknown model 'resnet19'; near: resnet18"),
        ("timm/nothing", "unknown model 'timm/nothing'"),
        ("../../etc/passwd", "unknown model"),
        ("os:getcwd", "'os:getcwd' is code outside bam, and bam never runs code that a file names"),
        ("timm/hf_hub:a/b", "is code outside bam"),
    ],
    "num_classes": [
        (-1, "expected null, or the number of outputs"),
        (True, "got True"),
        (10.0, "got 10.0"),
        ("10", "got '10'"),
    ],
    "classes": [
        (["a"], "expected null, or num_classes = 10 names, got ('a',)"),
        ([1] * 10, "got (1, 1"),
        ("abcdefghij", "got 'abcdefghij'"),
        ({}, "got {}"),
    ],
    "mean": [
        ([0.5] * 2, None),
        (0.5, "expected a mean from 0 to 1 for each channel, got 0.5"),
        ([], "got ()"),
        (["a", 0.5, 0.5], "got ('a', 0.5, 0.5)"),
        ([float("nan")] * 3, "got (nan, nan, nan)"),
        ([10**400] * 3, "got (1000"),
        ([True] * 3, "got (True"),
        ([-0.1] * 3, "got (-0.1"),
    ],
    "std": [([0.5, 0.5, 0], "expected a deviation above 0"), ([float("inf")] * 3, "got (inf"), (None, "got None")],
    "image_size": [
        ([32], "expected height and width in pixels, got (32,)"),
        (32, "got 32"),
        ([32, 0], "got (32, 0)"),
        ([32, 32.0], "got (32, 32.0)"),
        (["32", "32"], "got ('32', '32')"),
    ],
    "resize": [
        (0, "expected the shorter side in pixels, at least as large as the crop, got 0"),
        (None, "got None"),
        (float("nan"), "got nan"),
    ],
    "bam_version": [(1, "expected a version, got 1")],
    "bam_format": [(2, "this version of bam reads format 1, got 2; update bottleneck-attention"), ("1", "got '1'")],
}


@pytest.mark.parametrize(
    ("field", "value", "part"), [(field, *case) for field, cases in WRONG.items() for case in cases]
)
def test_wrong_values(saved, field, value, part, tmp_path):
    message = refused(tmp_path, saved[0] | {field: value}, saved[1])
    assert message.startswith(f"config.json: {field if part else 'std'}: ") and (part or "channel in mean") in message


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        (
            "backbone",
            "cifar/resnet20",
            "does not fit cifar/resnet20 with attention at layer1, layer2; missing: layer1.1.",
        ),
        ("num_classes", 7, "of another shape or type: fc.weight (10, 64) (the network has (7, 64)), fc.bias"),
        ("sites", {}, "with attention at no site; unknown: layer1.attention."),
    ],
)
def test_another_network(saved, field, value, part, tmp_path):
    assert refused(tmp_path, saved[0] | {field: value}, saved[1]).startswith("model.safetensors does not fit")
    assert part in refused(tmp_path, saved[0] | {field: value}, saved[1])


def test_more_classes_than_memory(saved, tmp_path):
    assert "backbone: 'cifar/resnet8' cannot be built" in refused(
        tmp_path, saved[0] | {"num_classes": 10**15}, saved[1]
    )


def at(label="layer1", **changes):
    """A site of the saved network, changed; the other one as it was."""
    site = {"attention": "bam", "channels": 16, "options": {"reduction": 4}} | changes
    return {label: site, "layer2": {"attention": "bam", "channels": 32, "options": {"reduction": 4}}}


FIELD = 'expected {site: {"attention": name or null, "channels": a positive number, "options": {name: value}}}, got'


@pytest.mark.parametrize(
    ("sites", "part"),
    [
        ([], FIELD),
        (None, FIELD),
        ({"layer1": 3}, FIELD),
        (at(channels=-16), FIELD),
        (at(channels=True), FIELD),
        (at(options=[]), FIELD),
        (at(options={"reduction": float("nan")}), FIELD),
        (at(attention=7), FIELD),
        (at(more=1), FIELD),
        (at(attention="bim"), "bim at layer1: unknown attention 'bim'"),
        (
            at(attention=None),
            "the attention at layer1 is not in bam.ATTENTION: pass a function that builds it, attention=",
        ),
        (at(channels=17), "layer1: expected {'channels': 16, "),
        (at("layer9"), "bam at layer9, layer2: the model has no module 'layer9'"),
        (at("fc"), "bam at fc, layer2: site 'fc' returns a tensor of shape"),
        (at(""), "bam at , layer2: the model has no module ''"),
        (at("layer?"), "layer1: expected {'channels': 16, "),
        (at("-1"), "-1: expected None, as in cifar/resnet8, got {'channels': 16"),
        (at("stride 2"), "stride 2"),
        (at("every block"), ""),
        (at("before layer2"), "'before layer2' and 'layer2' are one module"),
        (at(options={"reduction": "4"}), "bam at layer1: BAM: reduction must be a whole number"),
        (at(options={"reduction": -4}), "BAM: reduction must be a whole number, at least 1, got -4"),
        (at(options={"combine": []}), "bam at layer1: "),
        (at(options={"dilation": 10**30}), "bam at layer1: "),
        (
            at(options={"speed": 3}),
            "attention bam(speed=3): BAM.__init__() got an unexpected keyword argument",
        ),
        (at(options={"sites": ["layer2"]}), FIELD),
        (at(options={"model": 1}), "bam at layer1: "),
        (at(options={"device": "meta"}), "bam at layer1: "),
    ],
)
def test_other_sites(saved, sites, part, tmp_path):
    message = refused(tmp_path, saved[0] | {"sites": sites}, saved[1])
    assert message.startswith("config.json: sites: ") and part in message


@pytest.mark.parametrize(
    ("sites", "part"),
    [
        (
            at(options={"reduction": 8}),
            "of another shape or type: layer1.attention.channel.reduce.weight (4, 16) (the network",
        ),
        (at("layer3", channels=64), "missing: layer3.attention"),
        (at(options={"reduction": 4, "identity": True}), "missing: layer1.attention.scale"),
    ],
)
def test_other_tensors(saved, sites, part, tmp_path):
    message = refused(tmp_path, saved[0] | {"sites": sites}, saved[1])
    assert message.startswith("model.safetensors does not fit cifar/resnet8") and part in message


def test_fields_are_complete_and_no_others(saved, tmp_path):
    for field in saved[0]:
        config = {key: value for key, value in saved[0].items() if key != field}
        expected = "was not written by bam.export" if field == "bam_format" else f": missing fields: {field}"
        assert expected in refused(tmp_path, config, saved[1])
    assert "config.json: unknown fields: __class__, extra" in refused(
        tmp_path, saved[0] | {"extra": 1, "__class__": "os.system"}, saved[1]
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is damaged"),
        (b"{", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"bam_format": 1' + b"0" * 5000 + b"}", "is damaged"),
        (b"[]", "was not written by bam.export.save_pretrained: it holds a list"),
        (b"{}", "was not written by bam.export.save_pretrained: it holds nothing"),
        (b'{"architectures": ["ResNet"], "model_type": "resnet"}', "it holds architectures, model_type"),
        (b'{"architecture": "resnet50", "num_classes": 1000}', "it holds architecture, num_classes"),
    ],
)
def test_files_of_others(saved, content, part, tmp_path):
    message = refused(tmp_path, content, saved[1])
    assert message.startswith("config.json ") and part in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", "cifar/resnet20"),
        ("classes", list("jihgfedcba")),
        ("sites", at("before layer1")),
        ("sites", at(options={"reduction": 4, "combine": "max"})),  # of the same tensors
        ("mean", [0.5, 0.5, 0.5]),
        ("std", [0.5, 0.5, 0.5]),
        ("image_size", [24, 24]),
        ("resize", 64),
        ("bam_version", "0.0"),
    ],
)
def test_weights_know_what_they_were_saved_with(field, value, tmp_path):
    save_pretrained(small(sites=["layer1", "layer2"], reduction=4), tmp_path, **SMALL)
    config = json.loads((tmp_path / "config.json").read_text()) | {field: value}
    message = refused(tmp_path, config, (tmp_path / "model.safetensors").read_bytes())
    assert message.startswith(f"config.json: {field}: {tmp_path / 'model.safetensors'} was saved with another value: ")
