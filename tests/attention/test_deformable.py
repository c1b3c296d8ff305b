"""Deformable convolution against a restatement that samples point by point, and in the place of convolutions."""

import copy
import pickle
import sys

import pytest
import torch
from torch import nn

import bam
from bam.attention import Deformable, SpatialTransformer
from bam.models import build
from tests.conftest import restless

LAST = "3x3 convolutions of the last stage"


def sampled(image, y, x):
    """Bilinear value of image (C, H, W) at (y, x), zero outside."""
    total = torch.zeros_like(image[:, 0, 0])
    for row in (y.floor(), y.floor() + 1):
        for column in (x.floor(), x.floor() + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total = total + image[:, int(row), int(column)] * (1 - (y - row).abs()) * (1 - (x - column).abs())
    return total


def deformed(features, offset, modulation, weight):
    """Equation 2 of 1703.06211 and equation 1 of 1811.11168, depthwise, padding 1."""
    rows = []
    for n in range(features.shape[0]):
        for i in range(features.shape[2]):
            for j in range(features.shape[3]):
                taps = []
                for k in range(9):
                    y, x = i + k // 3 - 1 + offset[n, 2 * k, i, j], j + k % 3 - 1 + offset[n, 2 * k + 1, i, j]
                    taps.append(weight[:, 0, k // 3, k % 3] * sampled(features[n], y, x) * modulation[n, k, i, j])
                rows.append(sum(taps))
    n, c, h, w = features.shape
    return torch.stack(rows).reshape(n, h, w, c).permute(0, 3, 1, 2)


def moved(module):
    """With offsets of about a place."""
    nn.init.normal_(module.offset.weight, std=0.2 / module.step)
    nn.init.normal_(module.offset.bias, std=1 / module.step)
    return module


def test_the_layer_it_replaces_is_called_by_keyword_too():
    layer, x = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), torch.randn(1, 3, 8, 8)
    bam.attach(layer, Deformable, sites="before 0", image=8)
    assert torch.equal(layer[0](input=x), layer[0](x))


@pytest.mark.parametrize("modulated", [False, True])
def test_equations_and_gradients(modulated):
    module = moved(Deformable(3, modulated, step=0.2, identity=True, dtype=torch.float64))
    nn.init.constant_(module.scale, 0.4)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    predicted = module.offset(x)
    modulation = 2 * predicted[:, 18:].sigmoid() if modulated else torch.ones(2, 9, 4, 5)
    expected = x + module.scale * deformed(x, 0.2 * predicted[:, :18], modulation, module.convolution.weight)
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)
    wanted = [x, *module.parameters()]
    weights = torch.randn_like(x)
    for ours, theirs in zip(
        torch.autograd.grad((module(x) * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "cifar/resnet8"])
@pytest.mark.parametrize("modulated", [False, True])
def test_in_the_place_of_the_last_convolutions(name, modulated):
    model = restless(build(name, 10)).eval()
    keys, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    x = torch.randn(2, 3, 64, 64)
    plain = model(x)
    bam.attach(model, "deformable", sites=LAST, modulated=modulated)
    last = "layer3" if name.startswith("cifar") else "layer4"
    assert bam.attended(model) and all(site.startswith(f"before {last}.") for site in bam.attended(model))
    assert [key for key in model.state_dict() if ".attention." not in key] == keys
    for label, module in bam.attended(model).items():
        conv = model.get_submodule(label.removeprefix("before "))
        assert sum(p.numel() for p in module.parameters()) == (27 if modulated else 18) * (9 * conv.in_channels + 1)
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
    for module in bam.attended(model).values():
        moved(module)
    assert not torch.allclose(model(x), plain, atol=1e-2)
    with bam.without_attention(model):
        assert torch.equal(model(x), plain)
    bam.detach(model)
    assert torch.equal(model(x), plain) and [type(module) for module in model.modules()] == kinds


def test_strided_grouped_and_dilated_convolutions():
    for conv in (
        nn.Conv2d(4, 6, 3, 2, padding=1),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 6, 3, stride=(1, 2), padding=0),
    ):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), conv)
        x = torch.randn(1, 3, 9, 8)
        plain = model(x)
        bam.attach(model, "deformable", sites="before 1", image=(9, 8))
        assert model[1].attention.takes_place
        torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-5)


def test_a_step_moves_offsets_and_the_network_trains():
    model = bam.attach(build("cifar/resnet8", 10), "deformable", sites=LAST)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert not any(torch.equal(before[key], value) for key, value in model.state_dict().items() if "offset" in key)


@pytest.mark.parametrize("sites", [LAST, "layer2"])
def test_adapter(sites, tmp_path):
    model = bam.attach(build("cifar/resnet8", 10).eval(), "deformable", sites=sites)
    plain = copy.deepcopy(bam.detach(copy.deepcopy(model)))
    for module in bam.attended(model).values():
        moved(module)
    bam.save_attention(model, tmp_path / "attention.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(bam.load_attention(plain, tmp_path / "attention.safetensors")(x), model(x))


def test_compile_export_and_trace():
    model = bam.attach(build("cifar/resnet8", 10).eval(), "deformable", sites=LAST)
    for module in bam.attended(model).values():
        moved(module)
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected)


def test_maps_are_the_average_displacement():
    module = Deformable(3, step=0.5)
    nn.init.constant_(module.offset.bias, 4.0)
    assert torch.equal(module.maps(torch.randn(1, 3, 4, 5)).displacement, torch.full((1, 2, 4, 5), 2.0))
    model = bam.attach(build("cifar/resnet8", 10).eval(), "deformable", sites=LAST)
    from bam.explanation import record

    with record(model) as passes:
        model(torch.randn(2, 3, 32, 32))
    assert all(maps.displacement.shape[1] == 2 and not maps.gain.any() for maps in passes[0].values())


@pytest.mark.parametrize("step", [0, -1, float("inf"), float("nan"), True, "1"])
@pytest.mark.parametrize("module", [Deformable, SpatialTransformer])
def test_impossible_steps_are_refused(module, step):
    with pytest.raises(ValueError, match="step must be a finite number above 0, got"):
        module(3, step=step)


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="leave identity out"):
        bam.attach(build("cifar/resnet8", 10), "deformable", sites=LAST, identity=True)
    with pytest.raises(ValueError, match=r"no 3x3 convolution has stride '7'; choose from stride 1, 2, 4"):
        bam.attach(build("cifar/resnet8", 10), "deformable", sites="3x3 convolutions of stride 7")
    with pytest.raises(ValueError, match="channels"):
        Deformable(0)
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        Deformable(3)(torch.randn(1, 3, 4, 4))
