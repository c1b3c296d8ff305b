"""A module that is not in the table goes through everything, by the contract alone."""

import copy
import json

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import bam
from bam import cli
from bam.attention import contract
from bam.export import from_pretrained, save_pretrained
from tests.attention.gate import Gate

NAME = "tests.attention.gate:Gate"
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return get_model("resnet18", num_classes=10).eval()


@pytest.mark.parametrize(
    "attention", [Gate, NAME, f"{NAME}(slope=2)", bam.AttentionSpec(NAME, sites=("layer2",))], ids=str
)
def test_attached_by_class_by_name_and_by_specification(plain, attention):
    model = bam.attach(copy.deepcopy(plain), attention)
    modules = bam.attended(model)
    assert list(modules) == ["layer2"] and all(type(module) is Gate for module in modules.values())
    assert not torch.equal(model(IMAGE), plain(IMAGE))
    assert torch.equal(bam.detach(model)(IMAGE), plain(IMAGE))
    assert torch.equal(bam.attach(copy.deepcopy(plain), attention, identity=True)(IMAGE), plain(IMAGE))


def test_saved_alone_and_with_the_network(plain, tmp_path):
    model = bam.attach(copy.deepcopy(plain), Gate, slope=2.0)
    bam.save_attention(model, tmp_path / "gate.safetensors")
    again = bam.load_attention(copy.deepcopy(plain), tmp_path / "gate.safetensors", attention=Gate)
    assert torch.equal(again(IMAGE), model(IMAGE))
    given = {"backbone": "resnet18", "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 64}
    save_pretrained(model, tmp_path / "net", attention=Gate, **given)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["sites"]["layer2"] == {"attention": NAME, "channels": 128, "options": {"slope": 2.0}}
    assert torch.equal(from_pretrained(tmp_path / "net", attention=Gate)(IMAGE), model(IMAGE))
    with pytest.raises(
        ValueError, match="pass a function that builds it, attention="
    ):  # no code runs because a file names it
        from_pretrained(tmp_path / "net")


def test_fused_networks_leave_it_out_where_it_is_the_identity(plain):
    model = bam.attach(copy.deepcopy(plain), Gate, sites="bottlenecks", identity=True).eval()
    nn.init.ones_(bam.attended(model)["layer2"].scale)
    with pytest.warns(UserWarning, match="at layer1, layer3 it is the identity"):
        fused = bam.fuse(model)
    assert list(bam.attended(fused)) == ["layer2"] and torch.equal(fused(IMAGE), model(IMAGE))


def test_modules_that_know_nothing_of_the_contract_get_its_defaults(plain):
    model = bam.attach(copy.deepcopy(plain), lambda channels: nn.Sequential(nn.BatchNorm2d(channels))).eval()
    (module, *_) = bam.attended(model).values()
    assert not contract.is_identity(module) and not contract.is_constant(module) and contract.fused(module) is module
    features = torch.randn(2, 64, 4, 4)
    assert torch.equal(contract.maps(module, features).gain, contract.gain(features, module(features)))
    assert list(bam.attended(bam.fuse(model))) == ["layer1", "layer2", "layer3"]
    with pytest.warns(UserWarning, match="is the identity"):
        assert not bam.attended(bam.fuse(bam.attach(copy.deepcopy(plain), nn.Identity).eval()))
    with pytest.raises(ValueError, match="unexpected keyword argument 'identity'"):
        bam.attach(copy.deepcopy(plain), lambda channels: nn.BatchNorm2d(channels), identity=True)


class More(bam.BAM):
    """A user's extension of a known module, whose forward pass does more."""

    def forward(self, x):
        return super().forward(x) + x


def test_what_a_class_inherits_says_nothing_of_a_forward_pass_that_it_overrides(plain):
    model = bam.attach(copy.deepcopy(plain), More, identity=True).eval()
    fused = bam.fuse(model)
    assert list(bam.attended(fused)) == list(bam.attended(model)) and torch.equal(fused(IMAGE), model(IMAGE))
    (module, *_) = bam.attended(model).values()
    assert not contract.is_identity(module) and not contract.is_constant(module) and contract.fused(module) is module
    features = torch.randn(2, 64, 4, 4)
    assert torch.equal(contract.maps(module, features).gain, contract.gain(features, module(features)))


class Unlike(nn.Module):
    """It has nothing to do with the contract, but for its names."""

    fused, is_identity, is_fused, is_constant = False, True, True, "never"

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return 2 * x


def test_names_of_the_contract_mean_nothing_elsewhere(plain, tmp_path):
    model = bam.attach(copy.deepcopy(plain), Unlike).eval()
    assert torch.equal(bam.fuse(model)(IMAGE), model(IMAGE)) and len(bam.attended(bam.fuse(model))) == 3
    bam.save_attention(model, tmp_path / "unlike.safetensors")


def test_a_class_that_cannot_start_as_the_identity_says_so(plain):
    class Fixed(bam.AttentionModule):
        def __init__(self, channels):
            super().__init__()

    with pytest.raises(ValueError, match="Fixed cannot start as the identity"):
        bam.attach(copy.deepcopy(plain), Fixed, identity=True)


def test_the_command_takes_it_through_a_comparison(tmp_path, capsys):
    assert cli.main(["cost", "--model", "cifar/resnet8", "--attention", f"{NAME}(sites=layer1)"]) == 0
    assert "+16 parameters" in capsys.readouterr().out
    words = ["compare", "--recipe", "digits/small", "--attention", f"none,{NAME}(slope=2),{NAME}(identity=true)"]
    words += ["--epochs", "1", "--batch-size", "32", "--device", "cpu", "--seeds", "1", "--out", str(tmp_path)]
    assert cli.main([*words, "--data-options", '{"num_train": 64, "num_test": 32, "canvas": 16}']) == 0
    assert f"{NAME}(slope=2) - none" in capsys.readouterr().out
    assert f"{NAME}(slope=2)" in (tmp_path / "report.html").read_text()
    (folder,) = tmp_path.glob("*slope=2-seed0")
    record = json.loads((folder / "record.json").read_text())
    assert record["recipe"]["attention"] == f"{NAME}(slope=2)" and record["sites"] == ["layer2"]
