"""Attended networks on several processes: two on this machine, which talk over gloo."""

from importlib.util import find_spec

import pytest
import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import bam
from bam.models import build
from tests.conftest import restless

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(8)


#: Ways in which the gate is computed.
PATHS = {"torch": {}, "recompute": {"recompute": True}}
if find_spec("triton") and not torch.cuda.is_available():  # on a CPU: in its interpreter, which conftest asks for then
    PATHS["triton"] = {"kernel": "triton"}


def network(**options):
    """An attended network, the same in every process.

    In eval mode: its batch norms then use their running statistics, and the mean loss of a batch is the mean over its
    halves. In training each process would normalise by the statistics of its own half, which is another function.
    """
    torch.manual_seed(0)
    return restless(bam.attach(build("cifar/resnet8", 10), image=16, **options)).eval()


def backward(model, images, targets):
    output = model(images)
    nn.functional.cross_entropy(output, targets).backward()
    return output.detach()


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def two_steps(model, images, targets):
    """The gradients of the first of two steps of SGD, and the state after the second."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model, images, targets)
    first = gradients(model)
    optimizer.step()
    optimizer.zero_grad()
    backward(model, images, targets)
    optimizer.step()
    return first, model.state_dict()


def replicated(half, options):
    model = network(**options)
    first, _ = two_steps(DistributedDataParallel(model), IMAGES[half], TARGETS[half])
    return {
        "gradients": {name.removeprefix("module."): value for name, value in first.items()},
        "state": model.state_dict(),
    }


def sharded(half):
    model = network()
    mesh = init_device_mesh("cpu", (2,))
    for stage in bam.attended(model):
        fully_shard(model.get_submodule(stage), mesh=mesh)
    fully_shard(model, mesh=mesh)
    return {
        "output": backward(model, IMAGES[half], TARGETS[half]),
        "gradients": {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()},
        "local size": sum(parameter.to_local().numel() for parameter in model.parameters()),
        "state": get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)),
    }


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    half = slice(4 * rank, 4 * rank + 4)
    try:
        replicas = {name: replicated(half, options) for name, options in PATHS.items()}
        torch.save((replicas, sharded(half)), f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What each of the two processes has found: ({path: replicated}, sharded)."""
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.spawn(one_of_two, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("path", list(PATHS))
def test_data_parallel_steps_are_those_of_one_process(of_two, path):
    first, state = two_steps(network(), IMAGES, TARGETS)
    replicas = [replicas[path] for replicas, _ in of_two]
    for replica in replicas:
        torch.testing.assert_close(replica["gradients"], first)
        torch.testing.assert_close(dict(replica["state"]), dict(state))
    assert all(torch.equal(value, replicas[1]["gradients"][name]) for name, value in replicas[0]["gradients"].items())


def test_shards_compute_the_same(of_two):
    model = network()
    expected = dict(model.state_dict())
    output = backward(model, IMAGES, TARGETS)
    shards = [shard for _, shard in of_two]
    torch.testing.assert_close(torch.cat([shard["output"] for shard in shards]), output)
    for shard in shards:
        torch.testing.assert_close(shard["gradients"], gradients(model))
        assert list(shard["state"]) == list(expected)
        assert all(torch.equal(shard["state"][key], expected[key]) for key in expected)


def test_shards_are_halves(of_two):
    sizes = [shard["local size"] for _, shard in of_two]
    whole = sum(parameter.numel() for parameter in network().parameters())
    assert sum(sizes) == whole and max(sizes) < 0.6 * whole
