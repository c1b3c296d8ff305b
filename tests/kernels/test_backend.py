"""Which implementation computes the gate, and what is said where it cannot."""

import sys

import pytest
import torch

from bam import BAM
from bam.kernels import GateOptions, backend, gate
from tests.conftest import skip_before_torch

CPU = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 1, 1), torch.randn(2, 1, 4, 5), None]


def test_environment_and_argument(monkeypatch):
    monkeypatch.delenv("BAM_KERNEL", raising=False)
    assert backend.named(None) == BAM(8).kernel == "auto"
    monkeypatch.setenv("BAM_KERNEL", "")
    assert backend.named(None) == "auto"
    monkeypatch.setenv("BAM_KERNEL", "triton")
    assert backend.named(None) == BAM(8).kernel == "triton"
    assert backend.named("torch") == BAM(8, kernel="torch").kernel == "torch"
    assert backend.named("auto") == "auto"


def test_unknown_names(monkeypatch):
    with pytest.raises(ValueError, match="^kernel must be one of auto, torch, inductor, triton, got 'cuda'$"):
        BAM(8, kernel="cuda")
    monkeypatch.setenv("BAM_KERNEL", "cuda")
    for make in (lambda: BAM(8), lambda: gate(*CPU[:3])):
        with pytest.raises(ValueError, match="^BAM_KERNEL must be one of auto, torch, inductor, triton, got 'cuda'$"):
            make()
    assert BAM(8, kernel="torch").kernel == "torch"


def test_the_module_keeps_what_it_was_made_with(monkeypatch):
    monkeypatch.setenv("BAM_KERNEL", "torch")
    module = BAM(8)
    monkeypatch.setenv("BAM_KERNEL", "cuda")
    module(torch.randn(2, 8, 4, 4))


@pytest.fixture
def interpreted(monkeypatch):
    """Triton that computes wherever tensors are."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr("bam.kernels.triton_gate.INTERPRETED", True)


def refused(match, function, *inputs):
    with pytest.raises(RuntimeError, match=f"kernel='triton' or BAM_KERNEL=triton: .*{match}.*kernel='torch'"):
        function(*inputs)


def by_triton(features, mc, ms):
    return gate(features, mc, ms, options=GateOptions(kernel="triton"))


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:FutureWarning")
@pytest.mark.usefixtures("interpreted")
def test_where_triton_is_refused(monkeypatch):
    features, mc, ms, _ = CPU
    each = [t[:, None] for t in (features, mc, ms)]
    refused("torch.func", torch.func.vmap(torch.func.grad(lambda *t: by_triton(*t).sum())), *each)
    refused("torch.func", lambda: torch.func.jvp(lambda x: by_triton(x, mc, ms), (features,), (features,)))
    refused("torch.jit.trace", lambda: torch.jit.trace(by_triton, (features, mc, ms)))
    with torch.autograd.forward_ad.dual_level():
        refused("forward-mode", by_triton, torch.autograd.forward_ad.make_dual(features, features), mc, ms)
    refused("not torch.complex64", by_triton, features, mc.to(torch.complex64), ms)
    refused("on cpu and meta", by_triton, features, mc.to("meta"), ms)


@pytest.mark.usefixtures("interpreted")
def test_compiled_transforms_are_refused_too():
    """In a program that torch.compile made, the op would have no tangent: the derivative would be wrong in silence."""
    skip_before_torch("2.13", "compiled networks compute the gate in plain operations, which have a derivative")
    features, mc, ms, _ = CPU

    def tangent(x):
        return torch.func.jvp(lambda x: by_triton(x, mc, ms), (x,), (x,))[1]

    refused("torch.func", torch.compile(tangent, backend="aot_eager"), features)


def test_triton_without_a_gpu(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr("bam.kernels.triton_gate.INTERPRETED", False)
    refused("on cpu, and it needs a GPU", by_triton, *CPU[:3])
    refused("on cpu, and it needs a GPU", BAM(8, kernel="triton"), torch.randn(2, 8, 4, 4))


def test_triton_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "bam.kernels.triton_gate", None)
    refused("Triton cannot be imported", by_triton, *CPU[:3])
    assert backend.implementation("auto", CPU) == "torch"


def test_on_the_meta_device_nothing_is_asked_of_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "bam.kernels.triton_gate", None)
    assert BAM(8, kernel="triton", device="meta")(torch.empty(2, 8, 4, 4, device="meta")).shape == (2, 8, 4, 4)
