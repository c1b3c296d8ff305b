"""Looking at a network changes nothing, and runs nothing of the user's but the forward pass."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import bam
from tests.attention.gate import Gate

LOOKS = {
    "find_bottlenecks": lambda model: bam.find_bottlenecks(model),
    "select_sites": lambda model: bam.select_sites(model, "layer1"),
    "cost": lambda model: bam.cost(model),
    "attach": lambda model: bam.detach(bam.attach(model, Gate)),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_hooks_of_others_do_not_run_and_stay(look):
    model, seen = get_model("resnet18").eval(), []
    for name in ("conv1", "layer1", "layer2.0.bn1"):
        model.get_submodule(name).register_forward_pre_hook(lambda *_: seen.append("before"))
        model.get_submodule(name).register_forward_hook(lambda *_: seen.append("after"))
    model.register_forward_hook(lambda *_, **__: seen.append("after"), with_kwargs=True)
    look(model)
    assert not seen
    model(torch.zeros(1, 3, 64, 64))
    assert seen.count("before") == 3 and seen.count("after") == 4


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.LazyConv2d(8, 3), nn.MaxPool2d(2))
        self.fc = nn.LazyLinear(10)

    def forward(self, x):
        return self.fc(self.layer1(x).mean((2, 3)))


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_lazy_layers_are_refused_by_name(look):
    model = Lazy()
    with pytest.raises(
        ValueError, match=r"'layer1.0.weight' has no shape yet: .* run the model once on an image first"
    ):
        look(model)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10) and isinstance(model.fc, nn.Linear)
    assert bam.find_bottlenecks(model, 32)[0].channels == 8


def test_lazy_layers_in_the_command(capsys, tmp_path):
    from bam import cli

    words = ["train", "--recipe", "digits/small", "--model", "tests.test_dryrun:lazy", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 1
    assert "'layer1.0.weight' has no shape yet" in capsys.readouterr().err


def lazy(num_classes):
    return Lazy()


class Volumes(nn.Module):
    """It would take an image of one channel for a volume without a batch."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.MaxPool3d(2))

    def forward(self, x):
        return self.layer1(x)


@pytest.mark.parametrize("image", [None, 32, torch.zeros(1, 1, 16, 32, 32)])
def test_volumes_are_not_supported(image):
    for call in (bam.find_bottlenecks, bam.attach):
        with pytest.raises(ValueError, match="Volumes works on volumes or videos .* which are not supported"):
            call(Volumes(), image=image)


class Other(nn.MaxPool2d):
    pass


class Forgetful(nn.Module):
    """Its forward pass changes everything that it can."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.seen = nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), []

    def forward(self, x):
        self.seen.append(x.shape)
        self.extra = nn.Identity()
        self.conv.weight.requires_grad_(False)
        self.pool.__class__ = Other
        return self.pool(self.conv(x))


def test_whatever_the_forward_pass_does_is_undone():
    model = Forgetful()
    before = copy.deepcopy(model)
    bam.find_bottlenecks(model, 16)
    assert not model.seen and not hasattr(model, "extra") and model.conv.weight.requires_grad
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]


def test_normalisation_costs_nothing_and_is_still_checked(monkeypatch):
    with pytest.raises(ValueError, match="cannot run on an image"):
        bam.cost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)), 16)
    normalisation = nn.BatchNorm2d(4)
    normalisation.weight = nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match="cannot run on an image"):
        bam.cost(nn.Sequential(nn.Conv2d(3, 4, 3), normalisation), 16)

    def torchs_own(*_):
        raise AssertionError("a millisecond on the meta device")

    monkeypatch.setattr(torch, "batch_norm", torchs_own)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3))
    assert [(site.name, site.channels) for site in bam.find_bottlenecks(model, 16)] == [("1", 4)]
