"""Residual attention against a restatement of its paper in float64, and its depth against the map."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bam
from bam.attention import ResidualAttention, mask_depth
from bam.models import build
from tests.conftest import restless


def norm(bn, x):
    mean, scale = bn.running_mean[:, None, None], (bn.running_var[:, None, None] + bn.eps).sqrt()
    return ((x - mean) / scale * bn.weight[:, None, None] + bn.bias[:, None, None]).clamp(min=0)


def unit(m, x):
    bn1, _, conv1, bn2, _, conv2, bn3, _, conv3 = m.branch
    y = torch.einsum("dc,nchw->ndhw", conv1.weight[:, :, 0, 0], norm(bn1, x))
    y = F.conv2d(norm(bn2, y), conv2.weight, padding=1)
    return x + torch.einsum("dc,nchw->ndhw", conv3.weight[:, :, 0, 0], norm(bn3, y))


def pool(x):
    columns = F.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 2).unfold(3, 3, 2)
    return columns.amax((4, 5))


def bilinear(before, after):
    """The matrix (after, before) of linear interpolation between the centres of the places."""
    at = ((torch.arange(after, dtype=torch.float64) + 0.5) * before / after - 0.5).clamp(0, before - 1)
    return (1 - (at[:, None] - torch.arange(before)).abs()).clamp(min=0)


def up(y, x):
    return torch.einsum("ah,bw,nchw->ncab", bilinear(y.shape[2], x.shape[2]), bilinear(y.shape[3], x.shape[3]), y)


def mask_logits(m, x, depth):
    """Figure 2, for each depth written out."""
    one = m.scales
    a = unit(one.down, pool(x))
    if depth > 1:
        b = unit(one.inner.down, pool(a))
        if depth > 2:
            c = unit(one.inner.inner.up, unit(one.inner.inner.down, pool(b)))
            b = unit(one.inner.skip, b) + up(c, b)
        a = unit(one.skip, a) + up(unit(one.inner.up, b), a)
    y = up(unit(one.up, a), x)
    bn1, _, conv1, bn2, _, conv2 = m.project
    for bn, conv in ((bn1, conv1), (bn2, conv2)):
        y = torch.einsum("dc,nchw->ndhw", conv.weight[:, :, 0, 0], norm(bn, y)) + conv.bias[:, None, None]
    return y


ACTIVATIONS = {  # equations 4 to 6
    "mixed": lambda x: 1 / (1 + (-x).exp()),
    "channel": lambda x: x / x.square().sum(1, keepdim=True).sqrt(),
    "spatial": lambda x: 1 / (1 + (-(x - x.mean((2, 3), True)) / (x.var((2, 3), False, True) + 1e-5).sqrt()).exp()),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("depth", "weight"), [(1, None), (2, 0.3), (3, 1.0)])
def test_equations_and_their_gradients(activation, depth, weight):
    options = {"identity": weight is not None, "dtype": torch.float64}
    module = restless(ResidualAttention(8, depth, activation, **options)).eval()
    x = torch.randn(2, 8, 9, 12, dtype=torch.float64, requires_grad=True)
    if weight is not None:
        nn.init.constant_(module.scale, weight)
    mask = ACTIVATIONS[activation](mask_logits(module.mask, x, depth))
    expected = x * (1 + (1 if weight is None else weight) * mask)  # equation 3
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(module.maps(x).combined, mask)
    inputs, toward = [x, *(p for n, p in module.named_parameters() if n != "scale")], torch.randn_like(x)
    ours, theirs = (torch.autograd.grad((y * toward).sum(), inputs) for y in (module(x), expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_place_and_three_depths(activation):
    for depth in (1, 2, 3):
        module = ResidualAttention(3, depth, activation)
        x = torch.randn(1, 3, 1, 1, requires_grad=True)
        module(x).sum().backward()
        assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in module.parameters())
        assert module.bfloat16()(x.bfloat16()).isfinite().all()


def test_the_depth_follows_the_map(tmp_path):
    """Table 2 for ImageNet."""
    assert [mask_depth(side, side) for side in (112, 56, 32, 28, 16, 14, 8, 1)] == [3, 3, 2, 2, 1, 1, 1, 1]
    plain = build("cifar/resnet8", 10).eval()
    model = bam.attach(copy.deepcopy(plain), "residual_attention")
    assert [module.depth for module in bam.attended(model).values()] == [2, 1]
    bam.save_attention(model, tmp_path / "it.safetensors")
    again = bam.load_attention(copy.deepcopy(plain), tmp_path / "it.safetensors", image=64)  # with the depth it had
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    model = bam.attach(copy.deepcopy(plain), "residual_attention(depth=3)")
    assert [module.depth for module in bam.attended(model).values()] == [3, 3]
    totals = [bam.select_sites(plain, "bottlenecks").table(f"residual_attention{brackets}").splitlines()[-1]
              for brackets in ("", "(depth=1)")]  # fmt: skip
    assert totals[0] != totals[1]


def test_a_last_layer_of_zeros_attends_alike_to_all():
    module = ResidualAttention(4)
    nn.init.zeros_(module.mask.project[-1].weight)
    assert module.is_constant()


@pytest.mark.parametrize("options", [{"depth": 0}, {"activation": "softmax"}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ResidualAttention(8, **options)


@pytest.mark.parametrize("depth", [1, 2])
def test_convolutions_take_in_the_batchnorms_after_them(depth):
    module = restless(ResidualAttention(8, depth=depth)).eval()
    features = torch.randn(2, 8, 20, 17)
    fused = module.fused()
    assert fused.is_fused and not module.is_fused
    torch.testing.assert_close(fused(features), module(features), rtol=1e-4, atol=1e-5)
    before, after = (sum(isinstance(m, nn.BatchNorm2d) for m in each.modules()) for each in (module, fused))
    units = 3 * depth - 1
    assert (before, after) == (3 * units + 2, units + 1)
