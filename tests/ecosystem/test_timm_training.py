"""timm's ways of training on networks with attention."""

import copy
import functools

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import bam
import bam.timm
from tests.ecosystem.test_timm import IMAGES, create


@pytest.mark.parametrize(("name", "block"), [("test_resnet", "layer1.0"), ("test_convnext", "stages.0.blocks.0")])
def test_gradient_checkpointing(name, block):
    network = create(f"bam_{name}")
    plain = copy.deepcopy(network)
    seen = []
    network.get_submodule(block).register_forward_pre_hook(lambda *_: seen.append(1))
    network.set_grad_checkpointing(True)
    for model in (plain, network):
        model(IMAGES).square().sum().backward()
    assert len(seen) == 2  # forward, and again in backward
    for expected, parameter in zip(plain.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_moving_average():
    network = create("bam_test_resnet")
    before = copy.deepcopy(network.state_dict())
    average = ModelEmaV3(network, decay=0.75)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    average.update(network)
    state = average.module.state_dict()
    assert list(state) == list(before)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(state[name], 0.75 * before[name] + 0.25 * parameter)
    assert bam.attended(average.module) and not torch.allclose(average.module(IMAGES), network(IMAGES))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_layer_decay(name):
    """Deeper layers learn faster, each parameter as fast as in the plain network; attention is new, like the head."""
    plain, attended = (timm.create_model(f"{prefix}{name}") for prefix in ("", "bam_"))
    rates = []
    for model in (plain, attended):
        optimizer = create_optimizer_v2(model, "sgd", lr=1.0, layer_decay=0.5)
        scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
        state = model.state_dict(keep_vars=True)
        rates.append({key: scales[id(p)] for key, p in state.items() if id(p) in scales})
    assert len(set(rates[0].values())) > 5 and len(rates[1]) == len(list(attended.parameters()))
    assert {key: rate for key, rate in rates[1].items() if ".attention." not in key} == rates[0]
    assert {rate for key, rate in rates[1].items() if ".attention." in key} == {1.0}


def test_attention_inside_each_block():
    plain = create("resnet18", num_classes=10)
    inside = create("resnet18", num_classes=10, block_args={"attn_layer": functools.partial(bam.BAM, identity=True)})
    modules = [module for module in inside.modules() if isinstance(module, bam.BAM)]
    assert len(modules) == 8 == sum(len(stage) for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4))
    inside.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(inside(IMAGES), plain(IMAGES))
    model = create("resnet18", num_classes=10, block_args={"attn_layer": bam.BAM}).train()
    output = model(IMAGES)
    output.square().sum().backward()
    assert torch.isfinite(output).all() and all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().max() > 0 for n, p in model.named_parameters() if n.endswith("spatial.reduce.weight"))
