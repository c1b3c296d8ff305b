import copy
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import bam
from bam.attention import AttentionSpec, SiteSpec
from bam.export import IMAGENET, export_model, from_pretrained, save_pretrained
from bam.models import build
from tests.conftest import restless
from tests.surgery.test_adapter import Gate

ABOUT = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
SMALL = ABOUT | {"backbone": "cifar/resnet8", "image_size": 32, "num_classes": 10}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
FILES = ["config.json", "model.safetensors"]


def network(name="cifar/resnet8", classes=10, **options):
    model = build(name, classes)
    return restless(bam.attach(model, **options) if options else model)


def small(**options):
    return network(**{"image": 32, **options})


@torch.no_grad()
def assert_same(model, again, images=IMAGES):
    state, other = model.state_dict(), again.state_dict()
    assert list(state) == list(other)
    for key, value in state.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key])
    modes = [module.training for module in model.modules()]
    actual, expected = again(images), model.eval()(images)
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    assert torch.equal(actual, expected) and actual.dtype == expected.dtype


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"image": 64}),
        ("resnet18", {"image": 64, "sites": ["layer1.0", "before layer3.1"], "dilation": 2, "combine": "max"}),
        ("cifar/resnet20", {"image": 32, "identity": True}),
        ("mobilenet_v3_small", {"image": 64, "reduction": 8, "layout": "released"}),
        ("timm/test_convnext", {"image": 64}),
        ("timm/test_coatnet", {"image": 160, "sites": ["stages.0"]}),  # has buffers that are not in its state dict
        ("timm/test_resnet", {}),
        ("squeezenet1_1", {}),
        ("mnasnet0_5", {"image": 64}),  # asks for the version of its tensors
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bit_for_bit(name, options, tmp_path):
    model = network(name, **options)
    side = options.get("image", 64)
    modes, before = [module.training for module in model.modules()], torch.get_rng_state()
    save_pretrained(model, tmp_path / "net", backbone=name, **ABOUT, image_size=side)
    again = from_pretrained(tmp_path / "net")
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes and not hasattr(model, "bam_config")
    assert_same(model, again, torch.randn(2, 3, side, side))
    assert not again.training and all(p.requires_grad for p in again.parameters())
    assert list(bam.attended(again)) == list(bam.attended(model)) and sorted(os.listdir(tmp_path / "net")) == FILES
    assert again.bam_config.num_classes == 10 and again.bam_config.image_size == (side, side)


def test_other_attention_at_each_site(tmp_path):
    model = bam.attach(build("cifar/resnet8", 10), sites=["layer1"], reduction=4, image=32)
    bam.attach(model, sites=["layer2"], identity=True, image=32)
    bam.attach(model, sites=["before layer1.0"], reduction=4, image=32)
    bam.attach(model, Gate, sites=["layer3"], slope=2.0, image=32)
    restless(model)
    with pytest.raises(ValueError, match=r"the attention at layer3 is not in bam\.ATTENTION: pass a function"):
        save_pretrained(model, tmp_path / "net", **SMALL)
    assert not (tmp_path / "net").exists()
    save_pretrained(model, tmp_path / "net", **SMALL, attention=Gate)
    with pytest.raises(ValueError, match=r"config.json: sites: the attention at layer3 is not in .* attention="):
        from_pretrained(tmp_path / "net")
    again = from_pretrained(tmp_path / "net", attention=Gate)
    assert_same(model, again)
    save_pretrained(again, tmp_path / "twice", attention=Gate)
    for name in FILES:
        assert (tmp_path / "net" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_types(dtype, tmp_path):
    model = small(sites=["layer1", "layer2"]).to(dtype)
    save_pretrained(model, tmp_path, **SMALL)
    assert_same(model, from_pretrained(tmp_path), IMAGES.to(dtype))
    mixed = small(sites=["layer1"]).to(dtype)
    mixed.fc.float()
    mixed.avgpool.register_forward_hook(lambda module, args, output: output.float())
    with pytest.raises(
        ValueError, match="does not run on images|does not compute what"
    ):  # without the hook it does not
        save_pretrained(mixed, tmp_path / "mixed", **SMALL)


class Mixed(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, num_classes)

    def forward(self, images):
        return self.last(self.stem(images.to(self.stem.weight.dtype)).mean((2, 3)).to(self.last.weight.dtype))


class Tied(nn.Module):
    """Two layers with one weight, a buffer in the state dict and one that is not, a scalar and an empty tensor."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight
        self.last = nn.Conv2d(4, num_classes, 1)
        self.register_buffer("shift", torch.randn(4, 1, 1))
        self.register_buffer("again", self.shift[1:])  # shares memory
        self.register_buffer("factor", torch.full((1,), 0.5), persistent=False)
        self.register_buffer("empty", torch.zeros(0, 3))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        x = self.first(images) + self.shift
        return self.last(self.second(x * self.scale) * self.factor + self.again.sum()).mean((2, 3))


HERE = "tests.export.test_pretrained"
FOUR = {"mean": [0.5] * 4, "std": [0.2] * 4, "image_size": (12, 20)}


def test_a_network_of_ones_own(tmp_path):
    model = bam.attach(Tied(), sites=["first"], image=(4, 12, 20))
    with torch.no_grad():
        model.first.weight.normal_()
        model.shift.normal_()
    save_pretrained(model, tmp_path, backbone=f"{HERE}:Tied", **FOUR)
    with pytest.raises(
        ValueError, match=rf"config.json: backbone: '{HERE}:Tied' is code outside bam.* backbone=my_net"
    ):
        from_pretrained(tmp_path)
    images = torch.randn(2, 4, 12, 20)
    for backbone in (Tied, Tied(), lambda: Tied(), bam.attach(Tied(), sites=["second"], image=(4, 12, 20))):
        again = from_pretrained(tmp_path, backbone=backbone)
        assert_same(model, again, images)
        assert again.second.weight is again.first.weight and list(bam.attended(again)) == ["first"]
    assert again.bam_config.num_classes == 3
    with pytest.raises(ValueError, match="backbone= returned a int, not"):
        from_pretrained(tmp_path, backbone=lambda: 3)
    with pytest.raises(ValueError, match=r"sites: bam at first: the model has no module 'first'"):
        from_pretrained(tmp_path, backbone=nn.Conv2d(4, 4, 3))
    half = model.half()
    save_pretrained(half, tmp_path, backbone=f"{HERE}:Tied", **FOUR)
    assert_same(half, from_pretrained(tmp_path, backbone=Tied), images.half())


def test_parameters_of_two_types(tmp_path):
    model = bam.attach(Mixed(), sites=["stem"], image=32)
    model.stem.half()
    save_pretrained(model, tmp_path, **SMALL | {"backbone": f"{HERE}:Mixed"})
    assert_same(model, from_pretrained(tmp_path, backbone=Mixed))


def test_memory_layout_and_mode_do_not_matter(tmp_path):
    model = network("resnet18", image=64).to(memory_format=torch.channels_last).eval()
    save_pretrained(model, tmp_path, backbone="resnet18", **ABOUT, image_size=64)
    again = from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(again(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-3)


def test_trained_further_and_saved_again(tmp_path):
    classes = [f"klasse {i} ü" for i in range(10)]
    save_pretrained(small(sites=["layer1"]), tmp_path / "first", **SMALL | {"classes": classes, "resize": 40})
    model = from_pretrained(tmp_path / "first").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(IMAGES).square().mean().backward()
    optimizer.step()
    save_pretrained(model, tmp_path / "second")
    again = from_pretrained(tmp_path / "second")
    assert_same(model, again)
    assert again.bam_config == model.bam_config and again.bam_config.classes == tuple(classes)
    assert again.bam_config.resize == 40
    bam.detach(model)
    model.fc = nn.Linear(64, 3)
    save_pretrained(model, tmp_path / "second", classes=["a", "b", "c"], image_size=(16, 24))
    config = from_pretrained(tmp_path / "second").bam_config
    assert (config.sites, config.classes, config.num_classes) == ({}, ("a", "b", "c"), 3)
    assert (config.image_size, config.resize, config.mean) == ((16, 24), 24, (0.5, 0.4, 0.3))


def test_the_files_are_those_that_the_hub_knows(tmp_path):
    save_pretrained(small(sites=["layer2"], reduction=4), tmp_path, **SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["sites"] == {"layer2": {"attention": "bam", "channels": 32, "options": {"reduction": 4}}}
    assert config["backbone"] == "cifar/resnet8" and config["bam_version"] == bam.__version__ and config["resize"] == 32
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"bam.config": (tmp_path / "config.json").read_text()}
    rewritten = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file(rewritten, tmp_path / "model.safetensors")  # by a tool that drops the metadata
    from_pretrained(str(tmp_path))


def test_what_would_not_come_back_is_not_saved(tmp_path, monkeypatch):
    def refused(message, model=None, **changes):
        with pytest.raises(ValueError, match=f"^{tmp_path}/net was not written: .*{message}") as raised:
            save_pretrained(small(sites=["layer1"]) if model is None else model, tmp_path / "net", **SMALL | changes)
        assert "\n" not in str(raised.value) and not os.listdir(tmp_path)

    refused(
        "backbone: 'resnet19' cannot be built with num_classes=10: unknown model 'resnet19'; near: resnet",
        backbone="resnet19",
    )
    refused(
        "does not fit cifar/resnet20 with attention at layer1; missing: layer1.1.conv1.weight",
        backbone="cifar/resnet20",
    )
    refused(r"type: fc.weight \(10, 64\) \(the network has \(7, 64\)\)", num_classes=7)
    refused("sites: bam at layer1: the model has no module 'layer1'", backbone="vgg11")
    refused("classes: the model has 10 outputs, got 2 names", classes=["a", "b"], num_classes=None)
    refused("classes: expected null, or num_classes = 10 names, got ", classes=["a", "b"])
    refused("classes: expected null, or num_classes = 10 names, got 'abcdefghij'", classes="abcdefghij")
    refused("mean: expected a mean from 0 to 1 for each channel, got", mean=[123.7, 116.3, 103.5])
    refused("std: expected a deviation above 0 and up to 1 for each channel", std=[0.2, 0.2])
    refused("std: expected", std=[0.2, 0.2, 0.0])
    refused("image_size: expected height and width in pixels, got", image_size=(1, 2, 3))
    refused(r"does not run on images \(1, 1, 32, 32\): .*; pass image_size=", mean=[0.5], std=[0.5])
    refused("pass backbone=, mean=, std=: only networks loaded by", backbone=None, mean=None, std=None)
    refused("backbone: 'tests.nowhere:Net' cannot be built with .*No module named", backbone="tests.nowhere:Net")
    shallow = small(sites=["layer1"])
    shallow.relu = nn.Identity()  # the names of the tensors do not show it
    refused("its outputs differ from the model.s: was the model changed", shallow)
    smoothed = small(sites=["layer1"])
    for norm in smoothed.modules():
        if type(norm) is nn.BatchNorm2d:
            norm.eps = 1e-3
    refused("its outputs differ from the model.s: was the model changed", smoothed)
    off = small(sites=["layer1"])
    with bam.without_attention(off):
        refused("its outputs differ from the model.s: .* or its attention switched off", off)
    refused("wrapped in DataParallel: save model.module", nn.DataParallel(small(sites=["layer1"])))
    refused("wrapped in OptimizedModule: save model._orig_mod", torch.compile(small(sites=["layer1"])))
    refused(
        "the attention at 'layer1': its options cannot be written",
        small(attention=Gate, sites=["layer1"], slope=torch.ones(1)),
    )
    refused(
        "cannot be written as JSON .Out of range float", small(attention=Gate, sites=["layer1"], slope=float("nan"))
    )
    refused("these are not: conv1.weight", bam.attach(build("cifar/resnet8").to("meta"), sites=["layer1"]))


def test_an_unknown_keyword_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"save_pretrained\(\) got an unexpected keyword argument 'means'"):
        save_pretrained(small(sites=["layer1"]), tmp_path / "net", **SMALL, means=[0.5] * 3)
    with pytest.raises(TypeError, match=r"export_model\(\) got an unexpected keyword argument 'tolerances'"):
        export_model(small(sites=["layer1"]), tmp_path / "net.pt2", 32, tolerances=0.1)
    assert not os.listdir(tmp_path)


def test_first_versions_did_not_name_a_module_of_ones_own(tmp_path):
    model = small(sites=["layer1"], attention=Gate, slope=2.0)
    save_pretrained(model, tmp_path, **SMALL, attention=Gate)
    config = json.loads((tmp_path / "config.json").read_text())
    config["sites"]["layer1"]["attention"] = None
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"bam.config": json.dumps(config)})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(model, from_pretrained(tmp_path, attention=Gate))


def test_device_and_type_are_no_options_of_a_file(tmp_path):
    save_pretrained(small(sites=["layer1"], device="cpu", dtype=torch.float32), tmp_path, **SMALL)
    assert from_pretrained(tmp_path).bam_config.sites["layer1"] == SiteSpec(AttentionSpec("bam"), 16)


def test_a_network_of_ones_own_that_gives_many_tensors(tmp_path):
    model = network("deeplabv3_mobilenet_v3_large", 5)
    save_pretrained(model, tmp_path, backbone="deeplabv3_mobilenet_v3_large", num_classes=5, image_size=64, **ABOUT)
    with torch.no_grad():
        assert torch.equal(from_pretrained(tmp_path)(IMAGES)["out"], model.eval()(IMAGES)["out"])


def test_interrupted_saving(tmp_path, monkeypatch):
    folder = tmp_path / "net"

    def stops_at(name):
        replace = os.replace

        def stopping(source, target):
            if Path(target).name == name:
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", stopping)

    stops_at("config.json")
    with pytest.raises(OSError, match="cannot write .*config.json: No space left"):
        save_pretrained(small(sites=["layer1"]), folder, **SMALL)
    with pytest.raises(FileNotFoundError, match=r"no file .*config.json; bam.export.save_pretrained writes it last"):
        from_pretrained(folder)
    monkeypatch.undo()
    first = small(sites=["layer1"])
    save_pretrained(first, folder, **SMALL | {"classes": list("abcdefghij")})
    stops_at("model.safetensors")
    with pytest.raises(OSError, match="model.safetensors"):
        save_pretrained(small(sites=["layer1"]), folder, **SMALL | {"classes": list("jihgfedcba")})
    assert_same(first, from_pretrained(folder))
    monkeypatch.undo(), stops_at("config.json")
    with pytest.raises(OSError, match="config.json"):
        save_pretrained(small(sites=["layer1"]), folder, **SMALL | {"classes": list("jihgfedcba")})
    with pytest.raises(
        ValueError, match=r"config.json: classes: .*model.safetensors was saved with another value: sav"
    ):
        from_pretrained(folder)
    assert sorted(os.listdir(folder)) == FILES


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    save_pretrained(small(sites=["layer1", "layer2"], reduction=4), folder, **SMALL)
    return (folder / "config.json").read_text(), (folder / "model.safetensors").read_bytes()


LAST = "layer1.attention.spatial.project.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv1.weight"), "with attention at layer1, layer2; missing: conv1.weight$"),
        (lambda t: t.pop(LAST), f"missing: {LAST}$"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown: extra$"),
        (lambda t: t.update({"bn1.bias": torch.zeros(16, 1)}), r"bn1.bias \(16, 1\) \(the network has \(16,\)\)$"),
        (lambda t: t.update({"bn1.bias": torch.zeros(16).int()}), "shape or type: bn1.bias int32"),
        (lambda t: t.update({"bn1.num_batches_tracked": torch.zeros(())}), "type: bn1.num_batches_tracked"),
        (lambda t: t.clear(), "missing: conv1.weight, .* and 128 more"),
    ],
)
def test_tampered_weights(saved, change, message, tmp_path):
    (tmp_path / "config.json").write_text(saved[0])
    tensors = safetensors.torch.load(saved[1])
    change(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'model.safetensors'} does not fit cifar/resnet8")


def test_damaged_weights(saved, tmp_path):
    (tmp_path / "config.json").write_text(saved[0])
    path = tmp_path / "model.safetensors"
    for content in (b"", b"text", saved[1][:100], saved[1][:-1], saved[1] + b"1"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model.safetensors is damaged, or not a .safetensors file"):
            from_pretrained(tmp_path)
    for text in ("", "3", "[]", "[" * 100_000):
        safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"bam.config": text})
        with pytest.raises(ValueError, match="the metadata of .*model.safetensors (is damaged|was not written by)"):
            from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="there is no file .*model.safetensors"):
        from_pretrained(tmp_path)
    for source in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "nowhere", "./a/b", Path("a/b")):
        with pytest.raises(
            FileNotFoundError, match="there is no folder .*; a network on the Hugging Face Hub is named owner/name"
        ):
            from_pretrained(source)


def test_imagenet_is_at_hand(tmp_path):
    save_pretrained(network("squeezenet1_1"), tmp_path, backbone="squeezenet1_1", **IMAGENET)
    assert from_pretrained(tmp_path).bam_config.resize == 256


def test_copies_keep_their_configuration(saved, tmp_path):
    (tmp_path / "config.json").write_text(saved[0])
    (tmp_path / "model.safetensors").write_bytes(saved[1])
    model = from_pretrained(tmp_path)
    assert copy.deepcopy(model).bam_config == model.bam_config
