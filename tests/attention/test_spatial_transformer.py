"""The spatial transformer against a restatement of its sampler in float64, and on the image of a network."""

import copy

import pytest
import torch
from torch import nn

import bam
from bam.attention import SpatialTransformer
from bam.models import build
from tests.attention.test_deformable import sampled


def moved(module):
    nn.init.normal_(module.theta.weight, std=2)
    nn.init.normal_(module.theta.bias, std=2)
    return module


@pytest.mark.parametrize("transform", ["affine", "scale"])
def test_equations_and_gradients(transform):
    module = moved(SpatialTransformer(2, transform, 3, step=0.2, identity=True, dtype=torch.float64))
    nn.init.constant_(module.scale, 0.4)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    average = nn.functional.adaptive_avg_pool2d(module.convolution(x).clamp(min=0), 4).flatten(1)
    hidden = (average @ module.hidden.weight.T + module.hidden.bias).clamp(min=0)
    theta = 0.2 * (hidden @ module.theta.weight.T + module.theta.bias)
    theta = theta + torch.tensor([1.0, 0, 0, 0, 1, 0] if transform == "affine" else [1.0, 0, 0])
    values = []
    for n in range(2):
        a, b, c, d, e, f = theta[n] if transform == "affine" else (theta[n, 0], 0, theta[n, 1], 0, *theta[n, ::2])
        for i in range(4):
            for j in range(5):
                u, v = (2 * j + 1) / 5 - 1, (2 * i + 1) / 4 - 1
                column, row = ((a * u + b * v + c + 1) * 5 - 1) / 2, ((d * u + e * v + f + 1) * 4 - 1) / 2
                values.append(sampled(x[n], row, column))
    expected = torch.stack(values).reshape(2, 4, 5, 2).permute(0, 3, 1, 2)
    expected = x + module.scale * (expected - x)
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)
    wanted, weights = [x, *module.parameters()], torch.randn_like(x)
    for ours, theirs in zip(
        torch.autograd.grad((module(x) * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("transform", ["affine", "scale"])
def test_it_starts_as_the_identity_transform(transform):
    x = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(SpatialTransformer(3, transform)(x), x, rtol=1e-5, atol=1e-5)


def test_parameters():
    count = sum(p.numel() for p in SpatialTransformer(3, hidden=8).parameters())
    assert count == 8 * (27 + 1) + 8 * (128 + 1) + 6 * (8 + 1)


def test_maps_show_where_each_place_reads():
    module = SpatialTransformer(1)
    with torch.no_grad():
        module.theta.bias[2] = 5  # steps of 0.1, a quarter of the width to the right
    displacement = module.maps(torch.randn(1, 1, 4, 8)).displacement
    torch.testing.assert_close(displacement, torch.tensor([0.0, 2.0])[None, :, None, None].expand(1, 2, 4, 8))


@pytest.mark.parametrize(("name", "site"), [("resnet18", "before conv1"), ("vgg11", "before features")])
def test_on_the_image(name, site, tmp_path):
    model = build(name, 10).eval()
    keys, plain, x = list(model.state_dict()), copy.deepcopy(model), torch.randn(2, 3, 64, 64)
    bam.attach(model, "spatial_transformer", sites="input")
    assert list(bam.attended(model)) == [site] and bam.attended(model)[site].channels == 3
    assert [key for key in model.state_dict() if ".attention." not in key] == keys
    torch.testing.assert_close(model(x), plain(x), rtol=1e-3, atol=1e-3)
    moved(bam.attended(model)[site])
    bam.save_attention(model, tmp_path / "attention.safetensors")
    twin = bam.load_attention(copy.deepcopy(plain), tmp_path / "attention.safetensors")
    assert torch.equal(twin(x), model(x)) and not torch.allclose(model(x), plain(x), atol=1e-3)
    assert torch.equal(bam.detach(model)(x), plain(x))


@pytest.mark.parametrize("options", [{"channels": 0}, {"hidden": 0}, {"transform": "spline"}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SpatialTransformer(**{"channels": 8, **options})
