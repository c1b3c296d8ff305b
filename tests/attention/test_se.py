"""SE against an independent restatement of its equations in float64."""

import pytest
import torch

from bam import attach, attended
from bam.attention import SE
from bam.models import build


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weight", [None, 0.3, 1.0])
def test_equations(memory_format, weight):
    module = SE(24, reduction=5, identity=weight is not None, dtype=torch.float64)
    x = torch.randn(3, 24, 7, 10, dtype=torch.float64).to(memory_format=memory_format)
    z = x.mean((2, 3))  # equation 2
    hidden = (z @ module.reduce.weight.T + module.reduce.bias).clamp(min=0)
    s = 1 / (1 + torch.exp(-(hidden @ module.expand.weight.T + module.expand.bias)))  # equation 3
    expected = x * s[:, :, None, None]  # equation 4
    if weight is not None:
        torch.nn.init.constant_(module.scale, weight)
        expected = (1 - weight) * x + weight * expected
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_maps_are_what_the_module_multiplies_by():
    module, x = SE(24, reduction=5), torch.randn(3, 24, 7, 10)
    maps = module.maps(x)
    torch.testing.assert_close(x * maps.combined, module(x))
    assert torch.equal(maps.combined, maps.channel_logits.sigmoid()) and maps.spatial_logits is None


def test_gradients():
    module = SE(4, reduction=2, identity=True, dtype=torch.float64)
    torch.nn.init.constant_(module.scale, 0.4)
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x) and torch.autograd.gradgradcheck(module, x)


@pytest.mark.parametrize(("channels", "params"), [(8, 25), (64, 580), (256, 8464)])
def test_parameter_counts(channels, params):
    assert sum(p.numel() for p in SE(channels).parameters()) == params


def test_it_sits_on_the_residual_branch():
    """SE-ResNet (figure 3 of the paper), without naming sites: the block's output is relu(SE(branch) + shortcut)."""
    model = attach(build("resnet18").eval(), "se")
    assert list(attended(model)) == [f"layer{k}.{block}.bn2" for k in (1, 2, 3, 4) for block in (0, 1)]
    block, x = model.layer2[1], torch.randn(1, 128, 9, 9)
    features = block.conv2(block.bn1(block.conv1(x)).relu())
    branch = torch.nn.BatchNorm2d.forward(block.bn2, features)  # without the attention that its class adds
    torch.testing.assert_close(block(x), (block.bn2.attention(branch) + x).relu())
