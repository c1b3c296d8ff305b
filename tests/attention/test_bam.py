"""BAM against an independent restatement of the paper's equations in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F

from bam import BAM
from tests.conftest import restless


def batch_norm(x, norm, training):
    axes = [a for a in range(x.dim()) if a != 1]
    view = [1, -1] + [1] * (x.dim() - 2)
    mean, var = norm.running_mean.view(view), norm.running_var.view(view)
    if training:
        mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(view) + norm.bias.view(view)


def restated(module, x):
    """F + F * sigmoid(combine(Mc, Ms)), layer by layer as the paper and the released code state them."""
    training, closing = module.training, module.layout == "paper"
    channel, spatial = module.channel, module.spatial
    hidden = x.mean((2, 3)) @ channel.reduce.weight.T + channel.reduce.bias
    mc = batch_norm(hidden, channel.norm, training).clamp(min=0) @ channel.expand.weight.T + channel.expand.bias
    ms = F.conv2d(x, spatial.reduce.weight, spatial.reduce.bias)
    ms = batch_norm(ms, spatial.norm, training).clamp(min=0)
    d = module.dilation
    for conv, norm in ((spatial.context[0], spatial.context[1]), (spatial.context[3], spatial.context[4])):
        ms = batch_norm(F.conv2d(ms, conv.weight, conv.bias, padding=d, dilation=d), norm, training).clamp(min=0)
    ms = F.conv2d(ms, spatial.project.weight, spatial.project.bias)
    if closing:
        mc, ms = batch_norm(mc, channel.closing, training), batch_norm(ms, spatial.closing, training)
    mc, ms = mc[:, :, None, None].expand_as(x), ms.expand_as(x)
    logits = {"sum": mc + ms, "product": mc * ms, "max": torch.where(mc > ms, mc, ms)}[module.combine]
    return x + x * (1 / (1 + torch.exp(-logits)))


@pytest.mark.parametrize("branch", ["both", "channel", "spatial"])
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
def test_maps_are_what_the_module_multiplies_by(branch, combine):
    module = restless(BAM(24, reduction=5, combine=combine, branch=branch, dtype=torch.float64)).eval()
    x = torch.randn(3, 24, 7, 10, dtype=torch.float64)
    maps = module.maps(x)
    torch.testing.assert_close(x + x * maps.combined, module(x))
    mc, ms = module.branches(x)
    assert (maps.channel_logits is None) == (mc is None) and (maps.spatial_logits is None) == (ms is None)
    assert mc is None or torch.equal(mc, maps.channel_logits)
    assert ms is None or torch.equal(ms, maps.spatial_logits)


@pytest.mark.parametrize("layout", ["paper", "released"])
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equations(layout, combine, training, memory_format):
    module = restless(BAM(24, reduction=5, dilation=2, layout=layout, combine=combine, dtype=torch.float64))
    module.train(training)
    x = torch.randn(3, 24, 7, 10, dtype=torch.float64).to(memory_format=memory_format)
    torch.testing.assert_close(module(x), restated(module, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients(memory_format):
    module = restless(BAM(4, reduction=2, dilation=1, dtype=torch.float64))
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(module, x)
    module.eval()
    assert torch.autograd.gradcheck(module, x)
    assert torch.autograd.gradgradcheck(module, x)


@pytest.mark.parametrize(("channels", "params"), [(16, 96), (64, 1_173), (256, 17_361), (512, 68_513), (1024, 272_193)])
def test_parameter_counts(channels, params):
    count = {
        layout: sum(p.numel() for p in BAM(channels, layout=layout).parameters()) for layout in ("paper", "released")
    }
    assert count == {"released": params, "paper": params + 2 * channels + 2}


def test_branches():
    module = restless(BAM(32)).eval()
    x = torch.randn(2, 32, 5, 6)
    mc, ms = module.branches(x)
    assert mc.shape == (2, 32, 1, 1) and ms.shape == (2, 1, 5, 6)
    torch.testing.assert_close(module(x), x * (1 + torch.sigmoid(mc + ms)))


@pytest.mark.parametrize("branch", ["channel", "spatial"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_branch_alone_is_that_of_both(branch, training, memory_format):
    both = restless(BAM(32, dilation=2, dtype=torch.float64)).train(training)
    alone = BAM(32, dilation=2, branch=branch, dtype=torch.float64).train(training)
    part = {key: value for key, value in both.state_dict().items() if key.startswith(branch)}
    assert alone.state_dict().keys() == part.keys()
    alone.load_state_dict(part)
    x = torch.randn(2, 32, 5, 6, dtype=torch.float64).to(memory_format=memory_format)
    z = x.clone().requires_grad_()
    logits = both.branches(x)[0 if branch == "channel" else 1]
    y = alone(z)
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, x + x * torch.sigmoid(logits))
    if not training:
        assert torch.autograd.gradcheck(alone, z)


def test_submodule_names_are_stable():
    names = {name.split(".")[0] + "." + name.split(".")[1] for name in BAM(16).state_dict()}
    parts = ("channel.reduce", "channel.norm", "channel.expand", "channel.closing")
    assert names == {*parts, "spatial.reduce", "spatial.norm", "spatial.context", "spatial.project", "spatial.closing"}


@pytest.mark.parametrize(
    "options",
    [{"channels": 0}, {"reduction": 0}, {"dilation": 0}, {"combine": "mean"}, {"layout": "official"}, {"branch": "mc"}],
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        BAM(**{"channels": 8, **options})


def test_update_bn_averages_over_all_batches():
    module = BAM(8, layout="released")
    batches = [torch.randn(4, 8, 5, 5) for _ in range(3)]
    torch.optim.swa_utils.update_bn(batches, module)
    reduced = [F.conv2d(x, module.spatial.reduce.weight, module.spatial.reduce.bias).mean((0, 2, 3)) for x in batches]
    torch.testing.assert_close(module.spatial.norm.running_mean, torch.stack(reduced).mean(0))


@pytest.mark.parametrize("branch", ["both", "channel", "spatial"])
def test_a_single_value_is_normalised_by_running_statistics(branch):
    module = restless(BAM(16, branch=branch)).train()
    x = torch.randn(1, 16, 1, 1)
    before = copy.deepcopy(module.state_dict())
    y = module(x)
    torch.testing.assert_close(y, module.eval()(x))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_without_gradients_no_function_of_autograd_runs(monkeypatch):
    module, x = restless(BAM(16)).eval(), torch.randn(2, 16, 6, 7)
    expected = module(x).detach()

    def refused(*_):
        raise AssertionError("it costs more than the arithmetic of a small map")

    monkeypatch.setattr(torch.autograd.Function, "apply", refused)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected, rtol=0, atol=0)
