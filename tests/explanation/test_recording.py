import copy

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import bam
from bam.explanation import record, site_gains
from tests.conftest import restless

IMAGE = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attention", ["bam", "se", nn.BatchNorm2d], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_gains_at_every_site_of_any_network(name, attention):
    """Also where maps are (N, H, W, C), and of a module that knows nothing of the contract."""
    model = restless(bam.attach(get_model(name, num_classes=3), attention, image=64)).eval()
    expected = model(IMAGE)
    gains = site_gains(model, IMAGE)
    assert list(gains) == list(bam.attended(model))
    assert all(gain.shape[0] == 2 and gain.dim() == 3 and gain.isfinite().all() for gain in gains.values())
    if attention == "bam":
        assert all((gain > 0).all() and (gain < 1).all() for gain in gains.values())
    assert torch.equal(model(IMAGE), expected)


def test_nothing_is_left_behind_also_after_an_exception():
    model = bam.attach(get_model("resnet18"), image=64).eval()
    with pytest.raises(RuntimeError):
        site_gains(model, torch.randn(2, 5, 64, 64))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_recording_changes_nothing(name, training):
    """Outputs, gradients, running statistics and random numbers are those of a network that nobody watches."""
    torch.manual_seed(0)
    model = restless(bam.attach(get_model(name, num_classes=3), image=64)).train(training)
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    expected = other(IMAGE)
    expected.sum().backward()
    torch.manual_seed(1)
    with record(model) as passes:
        output = model(IMAGE)
    output.sum().backward()
    assert torch.equal(output, expected)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    gradients = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in gradients if b.grad is not None)
    assert torch.equal(torch.get_rng_state(), (torch.manual_seed(1), other(IMAGE), torch.get_rng_state())[-1])
    assert [list(sites) for sites in passes] == [list(bam.attended(model))]


def test_the_maps_are_those_of_the_equations():
    model = restless(bam.attach(get_model("resnet18", num_classes=3), image=64)).eval()
    inputs = {}
    for site, module in bam.attended(model).items():
        module.register_forward_hook(lambda _, x, y, site=site: inputs.setdefault(site, []).append((x[0], y)))
    with record(model) as passes:
        model(IMAGE)
        model(IMAGE.flip(3))
    assert len(passes) == 2 and all(len(pairs) == 2 for pairs in inputs.values())  # other hooks run once
    for number, sites in enumerate(passes):
        for site, maps in sites.items():
            features, refined = inputs[site][number]
            channel, spatial = bam.attended(model)[site].branches(features)
            assert torch.equal(maps.channel_logits, channel) and torch.equal(maps.spatial_logits, spatial)
            torch.testing.assert_close(features * (1 + maps.combined), refined)
            torch.testing.assert_close(1 + maps.gain, refined.norm(dim=1) / features.norm(dim=1))
            assert not maps.spatial_logits.requires_grad


def test_under_autocast_compiled_and_in_parts():
    model = restless(bam.attach(get_model("resnet18", num_classes=3), image=64)).eval()
    with torch.autocast("cpu", torch.bfloat16), record(model) as passes:
        model(IMAGE)
    assert passes[0]["layer1"].combined.dtype == torch.bfloat16
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(IMAGE)
        with record(compiled) as passes:
            compiled(IMAGE)
    assert list(passes[0]) == ["layer1", "layer2", "layer3"]
    features = torch.randn(1, 64, 16, 16)
    with record(model) as passes:
        model.layer2(features)
        model.layer2(features)
        model(IMAGE)
    assert [list(sites) for sites in passes] == [["layer2"], ["layer2"], ["layer1", "layer2", "layer3"]]


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match=r"ResNet has no attention to record: attach some with bam\.attach"):
        with record(get_model("resnet18")):
            pass


def test_no_hook_stays_after_an_exception_in_the_context():
    model = bam.attach(get_model("resnet18"), image=64)
    with pytest.raises(KeyError), record(model):
        raise KeyError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
