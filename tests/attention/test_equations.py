"""The neighbours of BAM against independent restatements of their papers' equations in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

import bam
from bam import CBAM, ECA, GC, SCSE, Coordinate, SimAM
from tests.conftest import restless

NAMES = ["cbam", "eca", "gc", "simam", "coordinate", "scse"]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def cbam(m, x):
    w0, b0, w1, b1 = m.channel.reduce.weight, m.channel.reduce.bias, m.channel.expand.weight, m.channel.expand.bias

    def mlp(v):
        return (v @ w0.T + b0).clamp(min=0) @ w1.T + b1

    mc = sigmoid(mlp(x.mean((2, 3))) + mlp(x.flatten(2).max(2).values))  # equation 2
    x = mc[:, :, None, None] * x
    pooled = torch.stack([x.mean(1), x.max(1).values], 1)
    return sigmoid(F.conv2d(pooled, m.spatial.mix.weight, m.spatial.mix.bias, padding=3)) * x  # equation 3


def eca(m, x):
    (kernel,) = m.mix.weight[0]
    side, averages = len(kernel) // 2, x.mean((2, 3))
    padded = F.pad(averages, (side, side))
    logits = sum(kernel[i] * padded[:, i : i + x.shape[1]] for i in range(len(kernel)))
    return x * sigmoid(logits)[:, :, None, None]  # equations 7 and 9


def gc(m, x):
    exps = torch.exp(torch.einsum("nchw,c->nhw", x, m.attend.weight[0, :, 0, 0]))
    context = torch.einsum("nchw,nhw->nc", x, exps / exps.sum((1, 2), keepdim=True))
    hidden = context @ m.reduce.weight.T + m.reduce.bias
    centred = hidden - hidden.mean(1, keepdim=True)
    hidden = centred / (centred.square().mean(1, keepdim=True) + m.norm.eps).sqrt() * m.norm.weight + m.norm.bias
    added = hidden.clamp(min=0) @ m.expand.weight.T + m.expand.bias
    return x + added[:, :, None, None]  # equation 5


def simam(m, x):
    places, weight = x.flatten(2), m.regularization
    mean, variance = places.mean(2, keepdim=True), places.var(2, unbiased=False, keepdim=True)
    least = 4 * (variance + weight) / ((places - mean) ** 2 + 2 * variance + 2 * weight)  # equation 5
    return x * sigmoid(1 / least).view_as(x)  # equation 6


def coordinate(m, x):
    height = x.shape[2]
    pooled = torch.cat([x.mean(3), x.mean(2)], 2)  # equations 4 and 5
    f = torch.einsum("dc,ncl->ndl", m.reduce.weight[:, :, 0, 0], pooled) + m.reduce.bias[:, None]
    norm = m.norm
    f = (f - norm.running_mean[:, None]) / (norm.running_var[:, None] + norm.eps).sqrt()
    f = f * norm.weight[:, None] + norm.bias[:, None]
    f = f * (f + 3).clamp(0, 6) / 6  # equation 6
    gh, gw = (
        sigmoid(torch.einsum("cd,ndl->ncl", conv.weight[:, :, 0, 0], part) + conv.bias[:, None])
        for conv, part in ((m.height, f[:, :, :height]), (m.width, f[:, :, height:]))  # equations 7 and 8
    )
    return x * gh[:, :, :, None] * gw[:, :, None, :]  # equation 9


def scse(m, x):
    channel = (x.mean((2, 3)) @ m.channel.reduce.weight.T).clamp(min=0) @ m.channel.expand.weight.T
    place = torch.einsum("nchw,c->nhw", x, m.spatial.weight[0, :, 0, 0])
    return x * sigmoid(channel)[:, :, None, None] + x * sigmoid(place)[:, None]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weight", [None, 0.3, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_equations_and_their_gradients(name, weight, memory_format):
    module = restless(bam.ATTENTION[name](32, identity=weight is not None, dtype=torch.float64)).eval()
    x = torch.randn(3, 32, 7, 10, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    if weight is not None:
        torch.nn.init.constant_(module.scale, weight)
    expected = globals()[name](module, x)
    expected = expected if weight is None else (1 - weight) * x + weight * expected
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)
    inputs = [x, *(p for n, p in module.named_parameters() if n != "scale")]
    toward = torch.randn_like(x)
    ours, theirs = (torch.autograd.grad((y * toward).sum(), inputs) for y in (module(x), expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name):
    module = restless(bam.ATTENTION[name](4, identity=True, dtype=torch.float64)).eval()
    torch.nn.init.constant_(module.scale, 0.4)
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x) and torch.autograd.gradgradcheck(module, x)


@pytest.mark.parametrize("name", ["cbam", "eca", "simam", "coordinate", "scse"])
def test_maps_are_what_the_module_multiplies_by(name):
    module, x = restless(bam.ATTENTION[name](24)).eval(), torch.randn(3, 24, 7, 10)
    torch.testing.assert_close(x * module.maps(x).combined, module(x))


def test_gc_shows_where_its_context_comes_from():
    module, x = GC(24), torch.randn(3, 24, 7, 10)
    assert torch.equal(module.maps(x).spatial_logits, module.attend(x)) and module.maps(x).combined is None


@pytest.mark.parametrize("c", [64, 256, 512])
def test_parameters_are_those_of_the_papers(c):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(CBAM(c)) == 2 * c * c // 16 + c + c // 16 + 2 * 49 + 1
    assert count(GC(c)) == 2 * c * c // 16 + c + (c + c // 16) + 2 * c // 16
    assert count(SCSE(c)) == c * c + c
    assert count(ECA(c)) == {64: 3, 256: 5, 512: 5}[c]
    assert count(SimAM(c)) == 0 and count(SimAM(c, identity=True)) == 1
    hidden = max(8, c // 32)
    assert count(Coordinate(c)) == 3 * c * hidden + 2 * c + 3 * hidden


def test_kernel_sizes_of_eca():
    """C = 2 ** (2 k - 1) (equation 11)."""
    sizes = {c: ECA(c).mix.weight.numel() for c in (1, 2, 3, 32, 128, 512, 2048)}
    assert sizes == {1: 1, 2: 1, 3: 1, 32: 3, 128: 5, 512: 5, 2048: 7}
    for c in (32, 512):
        assert math.isclose(sizes[c], (math.log2(c) + 1) / 2)
    assert ECA(8, kernel_size=7).mix.weight.numel() == 7


@pytest.mark.parametrize(
    ("cls", "options"), [(ECA, {"kernel_size": 4}), (ECA, {"kernel_size": 0}), (SimAM, {"regularization": 0})]
)
def test_impossible_options_are_refused(cls, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        cls(8, **options)
