"""Attended networks under what torch offers for training: every test compares numbers with the plain way."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import bam
from bam.models import build
from tests.conftest import restless

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(6)


@pytest.fixture
def network():
    """An attended network in training mode."""
    return restless(bam.attach(build("cifar/resnet8", 10), image=16))


def gradients(model, compute=None):
    """What one backward pass of `compute(images)`, by default the model itself, leaves in the model's parameters."""
    cross_entropy((model if compute is None else compute)(IMAGES), TARGETS).backward()
    return [parameter.grad for parameter in model.parameters()]


def calls(module):
    """A list that grows by one whenever a forward pass of `module` begins."""
    seen = []
    module.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def test_synchronised_batch_norm(network):
    """torch 2.15 trains it on a CPU only outside of a process group, where it is an ordinary batch norm."""
    tensors = network.state_dict(keep_vars=True)
    plain = copy.deepcopy(network)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    kinds = {type(m) for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {nn.SyncBatchNorm}
    converted = network.state_dict(keep_vars=True)
    assert list(converted) == list(tensors) and all(converted[key] is tensors[key] for key in tensors)
    assert torch.equal(network.eval()(IMAGES), plain.eval()(IMAGES))
    torch.testing.assert_close(gradients(network.train()), gradients(plain.train()))
    torch.testing.assert_close(network.state_dict(), plain.state_dict())


def test_checkpointed_stages(network):
    plain = copy.deepcopy(network)
    seen = calls(bam.attended(network)["layer1"])

    def compute(x):
        x = network.relu(network.bn1(network.conv1(x)))
        for stage in (network.layer1, network.layer2, network.layer3):
            x = checkpoint(stage, x, use_reentrant=False)
        return network.fc(network.avgpool(x).flatten(1))

    torch.testing.assert_close(gradients(network, compute), gradients(plain))
    assert len(seen) == 2  # forward, and again in backward


def test_checkpoint_wrapper(network):
    plain = copy.deepcopy(network)
    attended = bam.attended(network)
    stages = [network.get_submodule(name) for name in attended]
    seen = calls(attended["layer1"])
    apply_activation_checkpointing(network, check_fn=lambda module: module in stages)
    torch.testing.assert_close(gradients(network), gradients(plain))
    assert len(seen) == 2
    assert list(network.state_dict()) == list(plain.state_dict())


def test_gradients_of_each_image(network):
    """In eval mode: the statistics of a batch would tie its images together."""
    network.eval()
    parameters = dict(network.named_parameters())

    def loss(parameters, image, target):
        return cross_entropy(torch.func.functional_call(network, parameters, image[None]), target[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, IMAGES, TARGETS)
    for k in range(len(IMAGES)):
        network.zero_grad()
        cross_entropy(network(IMAGES[k : k + 1]), TARGETS[k : k + 1]).backward()
        for name, parameter in parameters.items():
            torch.testing.assert_close(each[name][k], parameter.grad)


def test_deterministic_algorithms_repeat_a_training_run(network):
    def train():
        model = copy.deepcopy(network)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            gradients(model)
            optimizer.step()
        return model.state_dict()

    torch.use_deterministic_algorithms(True)
    try:
        first, second = train(), train()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], network.conv1.weight)


def test_compiled_training_step(network):
    plain = copy.deepcopy(network)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(network, compiled), gradients(plain))
    torch.testing.assert_close(network.state_dict(), plain.state_dict())  # running statistics


def test_names_are_those_of_the_state_dict(network):
    named = dict(network.named_parameters()) | dict(network.named_buffers())
    state = network.state_dict(keep_vars=True)
    assert set(named) == set(state) and all(named[key] is state[key] for key in state)
    assert all(network.get_submodule(name) is module for name, module in network.named_modules())


def step_and_reload(model):
    """Take a step of AdamW, reload its state by names, and return what torch.distributed.checkpoint saved."""
    optimizer, again = torch.optim.AdamW(model.parameters()), torch.optim.AdamW(model.parameters())
    gradients(model)
    optimizer.step()
    saved = get_optimizer_state_dict(model, optimizer)
    set_optimizer_state_dict(model, again, saved)
    for parameter in model.parameters():
        assert torch.equal(again.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    return set(saved["state"])


def test_distributed_checkpoints_of_the_optimizer(network):
    """They name an attended network's parameters as those of the plain one, and load back."""
    plain = step_and_reload(bam.detach(copy.deepcopy(network)))
    assert plain <= step_and_reload(network) == {name for name, _ in network.named_parameters()}


def test_distributed_checkpoints_where_the_site_is_a_layer():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    step_and_reload(bam.attach(model, sites=["0"], image=16))
