"""timm's networks with attention by name, their features, and timm's ways of saving and loading them."""

import importlib
import subprocess
import sys

import pytest
import timm
import torch
from timm.models import save_for_hf

import bam
import bam.timm
from tests.conftest import restless

IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
TINY = timm.list_models("test_*", module=bam.timm.FAMILIES)


def create(name, **options):
    """`name` with the weights of seed 0, in eval mode, its statistics as after training."""
    torch.manual_seed(0)
    return restless(timm.create_model(name, **options)).eval()


def twins(name, **options):
    """A plain network and the attended one with the same weights."""
    plain, attended = create(name), timm.create_model(f"bam_{name}", **options).eval()
    report = attended.load_state_dict(plain.state_dict(), strict=False)
    assert not report.unexpected_keys and all(".attention." in key for key in report.missing_keys)
    return plain, attended


@pytest.fixture
def network():
    return create("bam_test_resnet", num_classes=10)


@pytest.mark.parametrize("name", TINY)
def test_identity_is_the_plain_network(name):
    plain, attended = twins(name, identity=True)
    assert len(bam.attended(attended)) == 3
    assert torch.equal(attended(IMAGES), plain(IMAGES))
    assert not torch.allclose(twins(name)[1](IMAGES), plain(IMAGES))


@pytest.mark.parametrize("family", bam.timm.FAMILIES)
def test_families(family):
    name = timm.list_models(module=family)[0]
    with torch.device("meta"):
        assert len(bam.attended(timm.create_model(f"bam_{name}"))) == 3


def test_names():
    names = timm.list_models("bam_*")
    assert {"bam_resnet50", "bam_convnext_tiny", "bam_efficientnet_b0"} <= set(names)
    assert not timm.list_models("bam_vit*") and not timm.is_model("bam_vit_tiny_patch16_224")
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model("bam_vit_tiny_patch16_224")
    assert "bam_resnet50.a1_in1k" in timm.list_pretrained("bam_resnet*")
    assert timm.get_pretrained_cfg("bam_resnet50.a1_in1k").hf_hub_id == "timm/resnet50.a1_in1k"


def test_pretrained_starts_as_the_plain_network(tmp_path):
    plain = create("test_resnet")
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    source = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "plain.pth")}}
    attended = timm.create_model("bam_test_resnet", **source).eval()
    assert bam.attended(attended) and torch.equal(attended(IMAGES), plain(IMAGES))
    assert not torch.allclose(
        timm.create_model("bam_test_resnet", identity=False, **source).eval()(IMAGES), plain(IMAGES)
    )


def test_options():
    model = timm.create_model("bam_test_resnet", attention_options={"reduction": 4}, in_chans=1, num_classes=7)
    assert [module.reduction for module in bam.attended(model).values()] == [4, 4, 4]
    assert model(IMAGES[:, :1]).shape == (2, 7)
    model = timm.create_model("bam_test_resnet", attention=torch.nn.BatchNorm2d, attention_options={"eps": 0.5})
    assert [module.eps for module in bam.attended(model).values()] == [0.5] * 3


@pytest.mark.parametrize("attention", ["bam(reduction=4)", bam.AttentionSpec("bam", {"reduction": 4})])
def test_attention_as_a_specification(attention):
    model = timm.create_model("bam_test_resnet", attention=attention, attention_options={"dilation": 2})
    modules = bam.attended(model).values()
    assert [(module.reduction, module.dilation) for module in modules] == [(4, 2)] * 3


def test_timm_saves_attention_written_as_text(tmp_path):
    network = create("bam_test_resnet", attention="bam(reduction=4)")
    save_for_hf(network, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(IMAGES), network(IMAGES))


@pytest.mark.parametrize("name", TINY)
def test_features(name):
    plain, attended = twins(name)
    features = timm.create_model(f"bam_{name}", features_only=True).eval()
    features.model.load_state_dict(attended.state_dict(), strict=False)
    seen = {}
    for site in bam.attended(attended):
        attended.get_submodule(site).register_forward_hook(lambda _, args, y, site=site: seen.update({site: y}))
    attended(IMAGES)
    levels = features(IMAGES)
    last = {y.shape[-1]: y for y in seen.values()}  # the attended map of each size
    assert len(last) == 3 and all(any(torch.equal(y, level) for level in levels) for y in last.values())
    info = timm.create_model(name, features_only=True).feature_info
    assert features.feature_info.channels() == info.channels() == [level.shape[1] for level in levels]
    assert features.feature_info.reduction() == info.reduction() == [96 // level.shape[2] for level in levels]
    few = timm.create_model(f"bam_{name}", features_only=True, out_indices=(1, 2)).eval()
    few.load_state_dict(features.state_dict(), strict=False)
    assert [torch.equal(a, b) for a, b in zip(few(IMAGES), levels[1:3], strict=True)] == [True, True]


def test_a_saved_network_comes_back(tmp_path):
    options = {"num_classes": 10, "in_chans": 1, "attention_options": {"reduction": 4}}
    network = create("bam_test_resnet", **options)
    save_for_hf(network, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    gray = IMAGES[:, :1]
    assert torch.equal(again(gray), network(gray))
    assert again.pretrained_cfg["architecture"] == "bam_test_resnet"
    tuned = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3).eval()
    assert tuned(gray).shape == (2, 3) and torch.equal(tuned.forward_features(gray), network.forward_features(gray))
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    assert torch.equal(features(gray)[-1], network.forward_features(gray))


def test_checkpoint_path(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "checkpoint.pth")
    again = timm.create_model("bam_test_resnet", num_classes=10, checkpoint_path=tmp_path / "checkpoint.pth").eval()
    assert torch.equal(again(IMAGES), network(IMAGES))


def test_description(network):
    assert network.pretrained_cfg is network.default_cfg
    assert network.pretrained_cfg["architecture"] == "bam_test_resnet"
    assert [level["module"] for level in network.feature_info] == [
        level["module"] for level in create("test_resnet").feature_info
    ]


def test_a_new_classifier(network):
    before = network.forward_features(IMAGES)
    network.reset_classifier(5)
    assert torch.equal(network.forward_features(IMAGES), before) and network(IMAGES).shape == (2, 5)


def test_registration_builds_nothing_and_is_silent():
    probe = (
        "import bam, timm, torch; built = []; torch.nn.Module.__init__ = lambda *a, **k: built.append(a); "
        "import bam.timm; print(len(built), timm.is_model('bam_resnet50'))"
    )
    command = [sys.executable, "-W", "error", "-c", probe]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("0 True\n", "")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "bam.timm")
    with pytest.raises(ImportError, match=r"bam.timm needs timm: pip install 'bottleneck-attention\[timm\]'"):
        importlib.import_module("bam.timm")


@pytest.mark.parametrize(
    ("name", "feature_cls"),
    [
        *(("resnet18", feature_cls) for feature_cls in ("getter", "list", "dict", "hook", "fx")),
        *(("vgg11", "getter"), ("densenet121", "hook"), ("regnetx_002", "list"), ("regnetx_002", "fx")),
    ],
)
def test_features_by_every_class_of_timm(name, feature_cls):
    torch.manual_seed(0)
    model = timm.create_model(f"bam_{name}", features_only=True, feature_cls=feature_cls).eval()
    torch.manual_seed(0)
    usual = timm.create_model(f"bam_{name}", features_only=True).eval()
    image = torch.randn(1, 3, 96, 96)
    maps = model(image)
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    assert len(maps) == len(usual(image)) and all(map(torch.equal, maps, usual(image)))
    with pytest.raises(ValueError, match="feature_cls must be one of getter, list"):
        timm.create_model(f"bam_{name}", features_only=True, feature_cls="all")


@pytest.mark.parametrize("name", ["xception41", "xception41p"])
def test_blocks_that_also_return_a_map_from_inside(name):
    """Two of three BAMs used to be led past, without a word."""
    model = create(f"bam_{name}")
    runs = []
    for site, module in bam.attended(model).items():
        module.register_forward_pre_hook(lambda *_, site=site: runs.append(site))
    output, maps = model.forward_intermediates(IMAGES[:1])
    assert runs == list(bam.attended(model)) and len(runs) == 3
    assert torch.equal(output, model.forward_features(IMAGES[:1]))
    for indices in ((0, 1, 2, 3, 4), (0, 1), (2,)):
        features = timm.create_model(f"bam_{name}", features_only=True, out_indices=indices)
        assert not features.model.load_state_dict(model.state_dict(), strict=False).missing_keys
        for index, features_map in zip(indices, features.eval()(IMAGES[:1]), strict=True):
            torch.testing.assert_close(features_map, maps[index], rtol=1e-4, atol=1e-4)


def test_a_way_past_the_attention_is_refused():
    class Past(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU())
            self.pool, self.two = torch.nn.MaxPool2d(2), torch.nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.two(self.pool(self.one(x)))

        def forward_intermediates(self, x):
            x = self.one[0](x)
            return self.two(self.pool(x)), [x]

    model = Past()
    with pytest.raises(
        ValueError, match="attention at one would run in the forward pass, but not in timm's forward_in"
    ):
        bam.attach(model, sites="one", image=8)
    assert not bam.attended(model) and bam.attended(bam.attach(model, sites="two", image=8))
