"""Dynamic filters against a restatement place by place in float64."""

import copy

import pytest
import torch
from torch import nn

import bam
from bam.attention import DynamicFilter
from bam.models import build


@pytest.mark.parametrize("filtering", ["local", "convolution"])
@pytest.mark.parametrize("softmax", [True, False])
def test_equations_and_gradients(filtering, softmax):
    module = DynamicFilter(4, filtering, 2, softmax, identity=True, device="cpu", dtype=torch.float64)
    nn.init.constant_(module.scale, 0.4)
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    rows = []
    logits = module.generator(x if filtering == "local" else x.mean((2, 3), keepdim=True))
    for n in range(2):
        for c in range(4):
            for i in range(3):
                for j in range(4):
                    theta = logits[n, :, i, j] if filtering == "local" else logits[n, 9 * c : 9 * c + 9, 0, 0]
                    theta = theta.exp() / theta.exp().sum() if softmax else theta
                    inside = [k for k in range(9) if 0 <= i + k // 3 - 1 < 3 and 0 <= j + k % 3 - 1 < 4]
                    rows.append(sum(theta[k] * x[n, c, i + k // 3 - 1, j + k % 3 - 1] for k in inside))
    expected = x + module.scale * (torch.stack(rows).reshape(2, 4, 3, 4) - x)
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)
    wanted, weights = [x, *module.parameters()], torch.randn_like(x)
    for ours, theirs in zip(
        torch.autograd.grad((module(x) * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("filtering", "params"), [("local", 272 + 2320 + 153), ("convolution", 272 + 17 * 9 * 16)])
def test_parameters(filtering, params):
    assert sum(p.numel() for p in DynamicFilter(16, filtering, reduction=1).parameters()) == params


def test_maps_show_where_a_filter_reads():
    module = DynamicFilter(4)
    nn.init.zeros_(module.generator[-1].weight)
    with torch.no_grad():
        module.generator[-1].bias.copy_(100 * torch.eye(9)[5])  # the neighbour on the right
    displacement = module.maps(torch.randn(1, 4, 3, 4)).displacement
    torch.testing.assert_close(displacement, torch.tensor([0.0, 1.0])[None, :, None, None].expand(1, 2, 3, 4))


@pytest.mark.parametrize("filtering", ["local", "convolution"])
def test_in_a_network(filtering, tmp_path):
    model = build("cifar/resnet8", 10).eval()
    plain, x = copy.deepcopy(model), torch.randn(2, 3, 32, 32)
    bam.attach(model, "dynamic_filter", filtering=filtering, identity=True)
    assert torch.equal(model(x), plain(x))
    for module in bam.attended(model).values():
        nn.init.constant_(module.scale, 0.5)
    bam.save_attention(model, tmp_path / "attention.safetensors")
    twin = bam.load_attention(copy.deepcopy(plain), tmp_path / "attention.safetensors")
    assert torch.equal(twin(x), model(x)) and not torch.allclose(model(x), plain(x))
    assert torch.equal(bam.detach(model)(x), plain(x))


@pytest.mark.parametrize("options", [{"channels": 0}, {"reduction": 0}, {"filtering": "global"}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DynamicFilter(**{"channels": 8, **options})
