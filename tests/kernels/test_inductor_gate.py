"""The gate that torch.compile compiles within eager networks, against the gate in torch operations."""

import copy
import functools
import shutil

import pytest
import torch
from torch._inductor.utils import run_and_get_code

from bam import BAM
from bam.costs import saved_bytes
from bam.kernels import GateOptions, backend, gate, inductor_gate
from bam.models import build
from bam.surgery import attach, attended

NEEDS_COMPILER = pytest.mark.skipif(not shutil.which(backend.compiler()), reason="there is no C++ compiler")
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Each test compiles anew, and reaches no limit of recompilations."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def quick(monkeypatch):
    """Traces and differentiates what would be compiled, which takes seconds each time, and runs it as it is."""

    @functools.cache
    def quickly(function, threads):
        return torch.compile(function, dynamic=True, backend="aot_eager")

    monkeypatch.setattr(inductor_gate, "_compiled", quickly)


def by(kernel, inputs, gradient, combine="sum"):
    """F' and the gradients of all inputs (features, channel logits, spatial logits, scale; None if missing)."""
    features, mc, ms, scale = inputs
    output = gate(features, mc, ms, scale=scale, options=GateOptions(combine, kernel=kernel))
    return [output, *torch.autograd.grad(output, [t for t in inputs if t is not None], gradient)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("missing", [None, 1, 2])
@pytest.mark.parametrize(
    ("combine", "dtype", "exact"),
    [(name, torch.float64, 1e-12) for name in ("sum", "product", "max")] + [("sum", torch.float32, 1e-5)],
)
def test_output_and_gradients_are_those_of_torch(combine, dtype, exact, missing, layout):
    features = torch.randn(3, 5, 4, 6, dtype=dtype).to(memory_format=layout)
    mc, ms = torch.randn(3, 5, 1, 1, dtype=dtype), torch.randn(3, 1, 4, 6, dtype=dtype)
    mc[0, 0], ms[0, 0, 0, 0] = 0.5, 0.5  # a tie for "max"
    inputs = [features, mc, ms, torch.tensor([0.7], dtype=dtype)]
    inputs = [None if k == missing else t.requires_grad_() for k, t in enumerate(inputs)]
    wanted, computed = (by(kernel, inputs, torch.ones_like(features), combine) for kernel in ("torch", "inductor"))
    torch.testing.assert_close(computed, wanted, rtol=exact, atol=exact)
    assert computed[0].is_contiguous(memory_format=layout)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("size", [(1, 5, 4, 6), (2, 1, 3, 3), (2, 5, 1, 1)])
@pytest.mark.parametrize("gradient_layout", ["same", "other", "expanded"])
def test_sizes_of_one_and_gradients_in_another_layout(size, gradient_layout):
    n, c, h, w = size
    features = torch.randn(size).to(memory_format=torch.channels_last)
    inputs = [features, *(torch.randn(s) for s in ((n, c, 1, 1), (n, 1, h, w))), None]
    inputs = [None if t is None else t.requires_grad_() for t in inputs]
    gradient = {
        "same": torch.randn_like(features),
        "other": torch.randn(size),
        "expanded": torch.randn(1).expand(size),
    }[gradient_layout]
    wanted, computed = (by(kernel, inputs, gradient) for kernel in ("torch", "inductor"))
    torch.testing.assert_close(computed, wanted, rtol=1e-5, atol=1e-5)


@NEEDS_COMPILER
def test_low_precision_sizes_and_strides():
    """bfloat16 with logits in float32; sizes change without compiling again, odd strides are served by torch."""
    for n, c, h, w in ((3, 5, 4, 6), (2, 8, 7, 3), (4, 6, 2, 9)):
        features = torch.randn(n, c, h, w, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        inputs = [features, torch.randn(n, c, 1, 1), torch.randn(n, 1, h, w), None]
        inputs = [None if t is None else t.requires_grad_() for t in inputs]
        gradient = torch.randn_like(features)
        for wanted, computed in zip(*(by(k, inputs, gradient) for k in ("torch", "inductor")), strict=True):
            assert computed.dtype == wanted.dtype
            torch.testing.assert_close(computed, wanted, rtol=0.03, atol=0.1)
    for compiled in (inductor_gate._refine, inductor_gate._gradients_of_sum):
        assert len(torch._dynamo.eval_frame._debug_get_cache_entry_list(compiled.__code__)) == 1
    assert backend.implementation("inductor", [torch.randn(2, 3, 4, 10)[..., ::2], None, None, None]) == "torch"


def some_inputs(n, c, h, w, dtype=torch.float32):
    features = torch.randn(n, c, h, w, dtype=dtype).to(memory_format=torch.channels_last)
    inputs = features, torch.randn(n, c, 1, 1), torch.randn(n, 1, h, w), torch.randn(1)
    return [t.requires_grad_() for t in inputs]


def test_code_is_written_for_fixed_sizes(monkeypatch):
    """It would sum in another order for others, and a run that resumes has to end in the same weights."""
    sizes = []

    def backend(module, inputs):
        sizes.append({size for t in inputs if isinstance(t, torch.Tensor) for size in t.shape})
        return module

    @functools.cache
    def compiled(function, threads):
        return torch.compile(function, dynamic=True, backend=backend)

    def compiled_for(*shape):
        sizes.clear()
        inputs = some_inputs(*shape)
        by("inductor", inputs, torch.randn_like(inputs[0]))
        return sizes

    monkeypatch.setattr(inductor_gate, "_compiled", compiled)
    usual = {1, 3, 1400, 1376}
    assert compiled_for(128, 16, 32, 32) == 2 * [usual]  # the forward and the backward pass
    assert compiled_for(16, 20, 10, 20) == []
    torch.compiler.reset()
    assert compiled_for(16, 20, 10, 20) == 2 * [usual]


@pytest.mark.usefixtures("quick")
def test_where_torch_compile_is_switched_off_nothing_is_tried_again(monkeypatch):
    calls = []

    def refine(*inputs):
        calls.append(inputs[0].shape)
        return inputs[0]

    monkeypatch.setattr(inductor_gate, "_refine", refine)
    inputs = some_inputs(16, 20, 10, 20)
    with torch.compiler.set_stance("force_eager"), torch.no_grad():
        for _ in range(3):
            gate(*inputs[:3], options=GateOptions(kernel="inductor"))
    assert len(calls) == 2 + 3  # two of the fixed sizes, once


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("with_scale", [False, True])
def test_results_do_not_depend_on_what_was_compiled_before(monkeypatch, tmp_path, with_scale):
    results = []
    for first in ((8, 8, 8, 8), (128, 16, 32, 32), (2, 4, 90, 80)):
        torch.compiler.reset()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / str(first[0])))
        for shape in (first, (16, 256, 56, 56), (2, 16, 6, 6), (128, 512, 1, 1)):
            torch.manual_seed(0)
            *inputs, scale = some_inputs(*shape, dtype=torch.bfloat16)
            inputs.append(scale if with_scale else None)
            results.append(by("inductor", inputs, torch.randn_like(inputs[0])))
    for number in (5, 6, 7, 9, 10, 11):
        assert all(torch.equal(*pair) for pair in zip(results[number], results[number - 4], strict=True))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_large_logits_saturate_or_cancel(logit):
    x = torch.ones(1, 2, 1, 2, requires_grad=True)
    mc = torch.tensor([logit, -logit]).view(1, 2, 1, 1).requires_grad_()
    ms = torch.tensor([logit, -logit]).view(1, 1, 1, 2).requires_grad_()
    wanted, computed = (by(kernel, [x, mc, ms, None], torch.ones_like(x)) for kernel in ("torch", "inductor"))
    torch.testing.assert_close(computed, wanted)


@NEEDS_COMPILER
def test_what_a_small_map_compiles_also_runs_large_maps_on_all_threads(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inputs = torch.randn(2, 3, 4), torch.rand(2, 1, 4), torch.rand(2, 3, 1), None
        _, codes = run_and_get_code(inductor_gate._compiled(inductor_gate._refine, 2), *inputs)
    finally:
        torch.set_num_threads(threads)
    assert "#pragma omp parallel" in codes[0]


# torch's own forward mode scripts its decompositions when it is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.usefixtures("quick")
def test_second_derivatives_and_batches_of_gradients_are_the_formulas():
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    mc = torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    ms = torch.randn(2, 1, 2, 3, dtype=torch.float64, requires_grad=True)

    def function(*inputs):
        return gate(*inputs, options=GateOptions(kernel="inductor"))

    assert torch.autograd.gradcheck(function, (x, mc, ms), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, (x, mc, ms))


@pytest.mark.usefixtures("quick")
def test_the_map_is_not_kept():
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    kept = {}
    for kernel in ("torch", "inductor"):
        module = BAM(16, kernel=kernel)
        kept[kernel] = saved_bytes(lambda module=module: module(x), x, *module.parameters(), *module.buffers())
    assert kept["torch"] - kept["inductor"] >= x.nbytes


@pytest.mark.usefixtures("quick")
def test_an_attended_network_trains_alike_and_compiles_as_a_whole():
    torch.manual_seed(0)
    model = attach(build("cifar/resnet8", 10), "bam(kernel=inductor)", image=32)
    plain = copy.deepcopy(model)
    for module in attended(plain).values():
        module.kernel = "torch"
    images = torch.randn(4, 3, 32, 32)
    for network in (model, plain):
        network(images).square().mean().backward()
    for ours, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, wanted.grad, rtol=1e-3, atol=1e-5)
    whole = torch.compile(model.eval(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(images), plain.eval()(images))


@pytest.mark.filterwarnings("ignore:.*force_disable_caches:UserWarning")  # a compiled gate of before would do
def test_without_a_compiler():
    from torch._inductor import config

    # config.patch, for pytest's monkeypatch deletes the setting afterwards.
    none = config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    message = "cannot be compiled here: InvalidCxxCompiler: .*; it needs .* kernel='torch'"
    with none, pytest.raises(RuntimeError, match=message):
        BAM(8, kernel="inductor")(torch.randn(2, 8, 4, 4))


@pytest.mark.usefixtures("quick")
def test_other_errors_stay_what_they_are():
    x, mc, ms = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 1, 1), torch.randn(2, 1, 4, 5)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        inductor_gate._run(raise_out_of_memory, x, mc, ms)


@torch.compiler.disable
def raise_out_of_memory(*inputs):
    raise torch.OutOfMemoryError("none left")
