import copy
import json

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision.models import get_model

import bam
from tests.conftest import restless

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return restless(get_model("resnet18", num_classes=10)).eval()


def attended(plain, **options):
    model = bam.attach(copy.deepcopy(plain), **options)
    for module in bam.attended(model).values():
        restless(module)
    return model


@pytest.mark.parametrize(
    "options",
    [{}, {"identity": True, "reduction": 8}, {"sites": ["layer2", "before layer3.1"], "dilation": 2}],
    ids=["default", "options", "sites"],
)
def test_the_attention_alone_makes_the_network_of_a_copy_of_the_backbone(plain, tmp_path, options):
    model, path = attended(plain, **options), tmp_path / "attention.safetensors"
    bam.save_attention(model, path)
    again = bam.load_attention(copy.deepcopy(plain), path)
    assert (
        torch.equal(again(IMAGE), model(IMAGE)) and not torch.equal(again(IMAGE), plain(IMAGE)) or "identity" in options
    )
    assert list(bam.attended(again)) == list(bam.attended(model))
    present = bam.load_attention(bam.attach(copy.deepcopy(plain), **options), path)
    assert torch.equal(present(IMAGE), model(IMAGE))


def test_the_file_is_small(plain, tmp_path):
    bam.save_attention(attended(plain), tmp_path / "attention.safetensors")
    assert (tmp_path / "attention.safetensors").stat().st_size < 200_000  # the backbone has 44 MB


class Gate(nn.Module):
    def __init__(self, channels, slope=1.0):
        super().__init__()
        self.weight, self.slope = nn.Parameter(torch.randn(channels, 1, 1)), slope

    def forward(self, x):
        return x + x * (self.slope * self.weight).sigmoid()


def test_own_modules_are_built_by_the_caller(plain, tmp_path):
    model, path = bam.attach(copy.deepcopy(plain), Gate, slope=2.0), tmp_path / "gate.safetensors"
    bam.save_attention(model, path)
    with pytest.raises(ValueError, match=r"not in bam.ATTENTION \(tests\S+:Gate\): pass a function that builds them"):
        bam.load_attention(copy.deepcopy(plain), path)
    assert torch.equal(bam.load_attention(copy.deepcopy(plain), path, attention=Gate)(IMAGE), model(IMAGE))


def test_what_does_not_fit_is_reported_and_changes_nothing(plain, tmp_path):
    path = tmp_path / "attention.safetensors"
    bam.save_attention(attended(plain), path)
    other = get_model("resnet50")
    with pytest.raises(ValueError, match="saved for 64 channels at 'layer1', this model has 256 there"):
        bam.load_attention(other, path)
    with pytest.raises(ValueError, match="no module 'layer1'"):
        bam.load_attention(get_model("vgg11"), path)
    with pytest.raises(ValueError, match=r"holds bam for 'layer1', this model has bam\(dilation=1\)"):
        bam.load_attention(bam.attach(copy.deepcopy(plain), dilation=1), path)
    with pytest.raises(ValueError, match="has no attention for 'layer4'"):
        bam.load_attention(bam.attach(copy.deepcopy(plain), sites=["layer1", "layer4"]), path)
    assert not bam.attended(other)


GOOD = {"attention": "bam", "channels": 64, "options": {}}


@pytest.mark.parametrize(
    "description",
    [[], 3, None, {}, {"layer1": None}, {"layer1": {**GOOD, "options": []}}, {"layer1": {"attention": "bam"}},
     {"layer1": {**GOOD, "attention": "bim"}}, {"layer1": {**GOOD, "options": {"reductoin": 3}}},
     {"layer1": {**GOOD, "options": {"reduction": "x"}}}, {"layer1": {**GOOD, "attention": ["bam"]}},
     {"-1": GOOD}, {"layer?": GOOD}, {"layer1": GOOD, "layer2": GOOD}],
)  # fmt: skip
@pytest.mark.parametrize("tensors", [True, False])
def test_tampered_descriptions_are_refused_and_change_nothing(plain, tmp_path, description, tensors):
    bam.save_attention(attended(plain, sites=["layer1"]), tmp_path / "good.safetensors")
    values = safetensors.torch.load_file(tmp_path / "good.safetensors") if tensors else {}
    path, model = tmp_path / "tampered.safetensors", copy.deepcopy(plain)
    safetensors.torch.save_file(values, path, {"bam.attention": json.dumps(description)})
    with pytest.raises(ValueError, match=r"tampered.safetensors|no module|position"):
        bam.load_attention(model, path)
    assert not bam.attended(model)


def test_files_that_are_none_of_ours_are_reported(plain, tmp_path):
    with pytest.raises(ValueError, match="carries no attention to save"):
        bam.save_attention(plain, tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        bam.load_attention(copy.deepcopy(plain), tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    safetensors.torch.save_file({"weight": torch.zeros(1)}, tmp_path / "plain.safetensors")
    for name in ("x.safetensors", "plain.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is not a file from bam.save_attention"):
            bam.load_attention(copy.deepcopy(plain), tmp_path / name)
    damaged = {"layer1": {"attention": "bam", "channels": 64, "options": {}}}
    safetensors.torch.save_file({}, tmp_path / "empty.safetensors", {"bam.attention": json.dumps(damaged)})
    with pytest.raises(ValueError, match="empty.safetensors does not fit the BAM at 'layer1'"):
        bam.load_attention(copy.deepcopy(plain), tmp_path / "empty.safetensors")
