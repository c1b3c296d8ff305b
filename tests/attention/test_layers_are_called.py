"""Layers of a BAM are called wherever somebody has changed them: moved, hooked or quantised."""

import copy

import accelerate
import pytest
import torch

from bam import BAM
from tests.conftest import restless

X = torch.randn(2, 16, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def module():
    return restless(BAM(16, reduction=4)).eval()


def test_parameters_that_somebody_has_moved(module):
    expected = module(X)
    offloaded = accelerate.cpu_offload(copy.deepcopy(module), execution_device="cpu")
    assert offloaded.spatial.reduce.weight.is_meta
    torch.testing.assert_close(offloaded(X), expected)


@pytest.mark.parametrize("name", ["spatial.reduce", "channel.reduce", "spatial.project"])
def test_backward_hooks_fire(module, name):
    seen = []
    module.get_submodule(name).register_full_backward_hook(lambda *_: seen.append(1))
    module(X.clone().requires_grad_()).sum().backward()
    assert seen == [1]


def test_a_forward_pass_that_somebody_has_replaced(module):
    expected, reduce = module(X), module.spatial.reduce
    original = reduce.forward
    reduce.forward = lambda features: 2 * original(features)
    assert not torch.allclose(module(X), expected)


def test_hooks_for_all_modules_see_each_layer(module):
    called = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda layer, *_: called.append(layer))
    module(torch.randn(2, 16, 48, 48))
    handle.remove()
    assert {layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)} <= set(called)


def test_torch_fx_finds_the_layers_to_quantise(module):
    nodes = torch.fx.symbolic_trace(module).graph.nodes
    called = {node.target for node in nodes if node.op == "call_module"}
    assert {"spatial.context.0", "spatial.context.3", "spatial.project"} <= called


OTHERS = {
    "spatial.context.0": [{"groups": 2}, {"padding_mode": "reflect"}, {"dilation": (4, 1), "padding": (4, 1)}],
    "spatial.reduce": [{"groups": 2}, {"bias": False}, {"kernel_size": 3, "padding": 1}],
}


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, all in OTHERS.items() for options in all])
@pytest.mark.parametrize("size", [8, 48])
def test_another_convolution_in_its_place(module, name, options, size):
    old = module.get_submodule(name)
    usual = {"kernel_size": old.kernel_size, "padding": old.padding, "dilation": old.dilation}
    new = torch.nn.Conv2d(old.in_channels, old.out_channels, **usual | options)
    module.set_submodule(name, new)
    x = torch.randn(2, 16, size, size)
    computed = module(x)
    new.register_forward_hook(lambda *_: None)  # so that it is called
    torch.testing.assert_close(computed, module(x))
