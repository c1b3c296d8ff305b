"""hubconf.py, by which torch.hub builds attended networks from a checkout."""

import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import WeightsEnum, get_model

import bam
from tests.conftest import restless

ROOT = str(Path(__file__).parents[2])
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
NAMED = ["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v3_large", "densenet121", "convnext_tiny"]


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))  # hubconf.py adds src to it


def load(entry, *args, **options):
    torch.manual_seed(0)
    return torch.hub.load(ROOT, entry, *args, source="local", trust_repo=True, **options)


def test_entries_and_their_help(tmp_path, monkeypatch):
    """As from GitHub, with the checkout in the cache, where torch.hub looks before it downloads."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "owner_repository_main").symlink_to(ROOT)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    repository = {"github": "owner/repository:main", "trust_repo": True}
    assert set(torch.hub.list(**repository)) == {"attended", *(f"bam_{name}" for name in NAMED)}
    message = torch.hub.help(model="bam_resnet34", **repository)
    assert "resnet34 with BAM" in message and "pretrained:" in message


@pytest.mark.parametrize("name", NAMED)
def test_named_entries(name):
    with torch.device("meta"):
        model = load(f"bam_{name}")
        plain = get_model(name)
    modules = bam.attended(model)
    assert len(modules) == 3 and all(type(module) is bam.BAM for module in modules.values())
    bam.detach(model)
    assert type(model) is type(plain) and list(model.state_dict()) == list(plain.state_dict())


def test_random_weights():
    torch.manual_seed(0)
    plain = get_model("resnet18", num_classes=10).eval()
    model = load("bam_resnet18", num_classes=10, reduction=8).eval()
    assert [module.reduction for module in bam.attended(model).values()] == [8, 8, 8]
    assert not torch.allclose(model(IMAGES), plain(IMAGES))
    assert torch.equal(load("bam_resnet18", num_classes=10, identity=True).eval()(IMAGES), plain(IMAGES))
    assert torch.equal(bam.detach(model)(IMAGES), plain(IMAGES))


def test_pretrained_starts_as_the_plain_network(monkeypatch):
    plain = restless(get_model("resnet18")).eval()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *args, **options: plain.state_dict())
    model = load("attended", "resnet18", pretrained=True).eval()
    assert len(bam.attended(model)) == 3 and torch.equal(model(IMAGES), plain(IMAGES))
    assert not torch.allclose(load("bam_resnet18", True, identity=False).eval()(IMAGES), plain(IMAGES))
    body = load("bam_resnet18", True, num_classes=10).state_dict()
    assert body["fc.weight"].shape == (10, 512) and torch.equal(body["conv1.weight"], plain.conv1.weight)
    with pytest.raises(ValueError, match="no weights 'IMAGENET1K_V9' for resnet18; known tags:"):
        load("attended", "resnet18", "IMAGENET1K_V9")


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="unknown model 'resnet19'; near: resnet18"):
        load("attended", "resnet19")
