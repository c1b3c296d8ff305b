"""The Triton gate against the equation in float64: on a GPU where there is one, else in Triton's interpreter.

Tolerances: a result is rounded once to its type, by at most half a unit in the last place (`UNIT`, relative), and the
arithmetic in float32 before that is off by a few of its own (16 2^-24). Terms of sums are of about 1, of either sign.
"""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.export import Dim, export
from torch.utils.checkpoint import checkpoint

from bam import BAM
from bam.kernels import GateOptions, gate
from tests.conftest import restless, skip_before_torch

pytest.importorskip("triton", reason="Triton is not installed")
from bam.kernels import triton_gate  # noqa: E402  # it imports Triton, which the line above has looked for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNIT = {torch.float64: 2**-53, torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}
FORMATS = [torch.contiguous_format, torch.channels_last]
#: Smaller than a tile, one place, and larger than a tile in both directions for each of the formats.
SIZES = [(2, 3, 5, 7), (3, 5, 1, 1), (1, 37, 11, 13), (2, 130, 5, 8)]
BIG = SIZES[2]


@pytest.fixture
def poisoned():
    """Memory that nothing was written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3, device=DEVICE).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def operands(size, dtype=torch.float32, memory_format=torch.contiguous_format):
    """F, Mc, Ms, scale."""
    n, c, h, w = size
    sizes = (size, (n, c, 1, 1), (n, 1, h, w))
    features, mc, ms = (torch.randn(s, device=DEVICE).to(dtype) for s in sizes)
    scale = torch.tensor([0.7], dtype=dtype, device=DEVICE)
    return [features.to(memory_format=memory_format), mc, ms, scale]


def equation(features, mc, ms, scale, combine):
    alone = ms if mc is None else mc
    both = {"sum": torch.add, "product": torch.mul, "max": torch.maximum}[combine]
    m = torch.sigmoid(alone if mc is None or ms is None else both(mc, ms))
    return features + (1 if scale is None else scale) * features * m


def by_triton(features, mc, ms, scale, combine):
    return gate(features, mc, ms, scale=scale, options=GateOptions(combine, kernel="triton"))


def derived(function, inputs, combine, gradient):
    """The output, and the gradients of those inputs that are there; of the equation in float64."""
    if function is equation:
        inputs = [None if t is None else t.double() for t in inputs]
    inputs = [None if t is None else t.detach().requires_grad_() for t in inputs]
    output = function(*inputs, combine)
    computed = torch.autograd.grad(output, [t for t in inputs if t is not None], gradient.to(output.dtype))
    return [output, *computed]


def check(inputs, combine):
    """The output and all gradients, also their types and layouts."""
    features = inputs[0]
    gradient = torch.randn_like(features)
    n, c, h, w = features.shape
    terms = [terms for terms, t in zip((0, h * w, c, features.numel()), inputs, strict=True) if t is not None]
    there = [features, *(t for t in inputs if t is not None)]
    made, true = (derived(function, inputs, combine, gradient) for function in (by_triton, equation))
    for ours, exact, like, summed in zip(made, true, there, [0, *terms], strict=True):
        assert ours.dtype == like.dtype and ours.shape == like.shape
        arithmetic = UNIT[torch.float64 if features.dtype == torch.float64 else torch.float32]
        unit = UNIT[like.dtype]
        if triton_gate.INTERPRETED and like.dtype == torch.bfloat16 and not summed:
            unit *= 2  # the interpreter stores bfloat16 cut off, not rounded
        smallest = 2**-25 if like.dtype == torch.float16 else 0  # subnormals of float16
        rtol, atol = unit + 16 * arithmetic, smallest + 16 * arithmetic * summed
        torch.testing.assert_close(ours.double(), exact, rtol=rtol, atol=atol)
    for map in made[:2]:
        assert map.is_contiguous() if features.is_contiguous() else map.stride() == features.stride()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@pytest.mark.parametrize("dtype", list(UNIT))
@pytest.mark.parametrize("size", SIZES)
def test_output_and_gradients(size, dtype, combine, memory_format):
    check(operands(size, dtype, memory_format), combine)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@pytest.mark.parametrize("left_out", [(1,), (2,), (3,), (1, 3), (2, 3)])
def test_left_out(left_out, combine, memory_format):
    check([None if k in left_out else t for k, t in enumerate(operands(BIG, memory_format=memory_format))], combine)


@pytest.mark.usefixtures("poisoned")
def test_logits_of_another_type_lose_no_digits():
    features, *others = operands(BIG)
    check([features.bfloat16(), *others], "sum")


def test_ties_of_max_are_shared():
    features, mc, ms, scale = operands((1, 2, 3, 3))
    check([features, mc.fill_(0.5), ms.fill_(0.5), scale], "max")


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("memory_format", FORMATS)
def test_no_gradient_but_the_needed(memory_format):
    inputs = operands((2, 3, 5, 7), memory_format=memory_format)
    gradient = torch.randn_like(inputs[0])
    _, *true = derived(equation, inputs, "product", gradient)
    for needed in range(4):
        inputs = [t.detach().requires_grad_(k == needed) for k, t in enumerate(inputs)]
        by_triton(*inputs, "product").backward(gradient)
        torch.testing.assert_close(inputs[needed].grad, true[needed].float())
        assert sum(t.grad is not None for t in inputs) == 1


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1::2],
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.transpose(2, 3),
        lambda x: x[:1].expand(2, -1, -1, -1),
    ],
)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_features_that_are_not_contiguous(view, memory_format):
    features = view(operands((2, 6, 6, 5), memory_format=memory_format)[0])
    others = operands(features.shape)[1:]
    gradient = torch.randn(1, device=DEVICE).expand(features.shape)
    made, true = (derived(function, [features, *others], "sum", gradient) for function in (by_triton, equation))
    torch.testing.assert_close(made, [t.float() for t in true])
    assert made[0].is_contiguous(memory_format=memory_format)


def test_logits_of_all_images_together():
    features, mc, ms, scale = operands((2, 3, 5, 7))
    inputs = [features, mc[:1], ms[:1], scale[0]]
    made, true = (derived(function, inputs, "sum", torch.ones_like(features)) for function in (by_triton, equation))
    torch.testing.assert_close(made, [t.float() for t in true])


@pytest.mark.parametrize("size", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)])
def test_nothing_to_compute(size):
    inputs = operands(size)
    for made, like in zip(derived(by_triton, inputs, "sum", inputs[0]), [inputs[0], *inputs], strict=True):
        assert made.shape == like.shape and not made.any()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("memory_format", FORMATS)
def test_nan_stays_where_it_is(memory_format):
    features, *others = operands(BIG, memory_format=memory_format)
    features[0, 30, 4, 6] = torch.nan
    output, for_features, for_mc, for_ms, for_scale = derived(
        by_triton, [features, *others], "sum", torch.randn_like(features)
    )
    assert torch.equal(output.isnan(), features.isnan())
    assert torch.isfinite(for_features).all() and for_scale.isnan()
    assert for_mc.isnan().nonzero().tolist() == [[0, 30, 0, 0]]
    assert for_ms.isnan().nonzero().tolist() == [[0, 0, 4, 6]]


@pytest.mark.parametrize("combine", ["sum", "product", "max"])
def test_nan_in_logits_is_not_hidden(combine):
    features, mc, ms, scale = operands((1, 3, 5, 7))
    mc[0, 1] = torch.nan
    made, true = (
        derived(function, [features, mc, ms, scale], combine, torch.ones_like(features))
        for function in (by_triton, equation)
    )
    for ours, exact in zip(made, true, strict=True):
        assert torch.equal(ours.isnan(), exact.isnan())


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # by NumPy, which the interpreter uses
@pytest.mark.parametrize("extreme", [200.0, torch.inf])
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
def test_extreme_logits(combine, extreme):
    """NaN (0 * inf) is only where the equation itself has it: tiles are larger than F, logits beyond its end are 0."""
    features, mc, ms, scale = operands((1, 3, 5, 7))
    inputs = [features, torch.tensor([extreme, -extreme, 1.0], device=DEVICE).view(1, 3, 1, 1), ms, scale]
    made, true = (derived(function, inputs, combine, torch.ones_like(features)) for function in (by_triton, equation))
    torch.testing.assert_close(made, [t.float() for t in true], equal_nan=True)
    assert all(torch.isfinite(t).all() for t in (*made[:3], made[4]))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_identity(memory_format):
    features, mc, ms, scale = operands(BIG, torch.float16, memory_format)
    assert torch.equal(by_triton(features, mc, ms, torch.zeros_like(scale), "sum"), features)


def test_same_bits_every_time():
    inputs = operands((2, 130, 11, 13))
    gradient = torch.randn_like(inputs[0])
    first, second = (derived(by_triton, inputs, "sum", gradient) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_derivatives_first_batched_and_second(combine, memory_format):
    inputs = [t.requires_grad_() for t in operands((2, 2, 1, 3), torch.float64, memory_format)]
    function = partial(lambda combine, *inputs: by_triton(*inputs, combine), combine)
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_second_derivatives_of_mixed_types():
    """As of a gradient penalty under autocast: the values are those of the equation."""
    features, mc, ms, scale = operands((2, 3, 5, 7))
    inputs = [t.requires_grad_() for t in (features.bfloat16(), mc, ms, scale)]

    def penalty(function, inputs):
        computed = torch.autograd.grad(function(*inputs, "sum").double().square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(t.double().square().sum() for t in computed), inputs)

    true = penalty(equation, [t.detach().double().requires_grad_() for t in inputs])
    for ours, exact in zip(penalty(by_triton, inputs), true, strict=True):
        # Some ten roundings to bfloat16; a derivative that is missing or wrong is off by its own size.
        assert (ours - exact).norm() < 10 * 2**-8 * exact.norm()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck itself reads it
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
def test_opcheck(combine):
    features, mc, ms, scale = operands((2, 3, 5, 7))
    flat = features.flatten(2), mc.flatten(2), ms.flatten(2), scale
    for inputs in (flat, (flat[0], None, *flat[2:]), (*flat[:2], None, None)):
        needed = [t is not None for t in inputs]
        torch.library.opcheck(triton_gate.flat_gate_backward, (flat[0], inputs[0], inputs[1:], combine, needed))
        wanted = [None if t is None else t.detach().requires_grad_() for t in inputs]
        torch.library.opcheck(triton_gate.flat_gate, (*wanted, combine))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_compile(memory_format):
    skip_before_torch("2.13", "compiled networks compute the gate in plain operations")
    torch._dynamo.reset()
    compiled = torch.compile(by_triton, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 5, 6, 7), (3, 5, 9, 4)):
        inputs = operands(size, memory_format=memory_format)
        gradient = torch.randn_like(inputs[0])
        with torch.profiler.profile() as profile:
            made = derived(compiled, inputs, "sum", gradient)
        assert {"bam::gate", "bam::gate_backward"} <= {event.key for event in profile.key_averages()}
        torch.testing.assert_close(made, derived(by_triton, inputs, "sum", gradient))
        assert made[0].stride() == inputs[0].stride()


@pytest.mark.parametrize("strict", [True, False])
def test_exported_programs_hold_plain_operations(strict):
    module = restless(BAM(16, kernel="triton")).eval()
    x = torch.randn(2, 16, 6, 7)
    program = export(module, (x,), dynamic_shapes=({0: Dim("n"), 2: Dim("h"), 3: Dim("w")},), strict=strict)
    assert not any("bam" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
    other = torch.randn(5, 16, 11, 4)
    module.kernel = "torch"
    torch.testing.assert_close(program.module()(other), module(other))


def module_and_twin(**options):
    """A BAM whose gate is Triton's, and the same with torch's."""
    module = restless(BAM(16, identity=True, kernel="triton", **options)).to(DEVICE)
    torch.nn.init.constant_(module.scale, 0.7)
    twin = BAM(16, identity=True, kernel="torch", **options).to(DEVICE)
    twin.load_state_dict(module.state_dict())
    return module, twin


def trained(module, x):
    x = x.detach().requires_grad_()
    output = module(x)
    output.float().square().sum().backward()
    return [output, x.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("branch", ["both", "channel", "spatial"])
def test_module(branch, memory_format):
    x = torch.randn(2, 16, 6, 7, device=DEVICE).to(memory_format=memory_format)
    made, true = (trained(module.eval(), x) for module in module_and_twin(branch=branch))
    torch.testing.assert_close(made, true, rtol=1e-4, atol=1e-4)
    assert made[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype):
    module, twin = (m.eval() for m in module_and_twin())
    x = torch.randn(2, 16, 6, 7, device=DEVICE, dtype=dtype)
    with torch.autocast(DEVICE, torch.bfloat16):
        y = module(x)
        assert torch.autograd.grad(y.sum(), module.scale)[0].dtype == torch.float32
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), twin(x.float()), rtol=0.03, atol=0.03)


def test_checkpoint():
    module, _ = module_and_twin()
    x = torch.randn(2, 16, 6, 7, device=DEVICE)
    made = trained(module, x)
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = checkpoint(module, x, use_reentrant=False)
    y.square().sum().backward()
    torch.testing.assert_close([y, x.grad, *(p.grad for p in module.parameters())], made)


@pytest.mark.skipif(not triton_gate.INTERPRETED, reason="on a GPU all tests compile the kernels")
def test_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter takes Python that Triton's compiler does not; that needs no GPU."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor
from bam.kernels import triton_gate

class Driver:
    get_current_device = get_current_stream = lambda self, *_: 0
    get_current_target = lambda self: GPUTarget("cuda", 80, 32)

triton.runtime.driver.set_active(Driver())
CASES = [
    (torch.float32, "sum", (), 5), (torch.bfloat16, "max", (1,), 1),  # Triton compiles sizes of 1 into the kernel
    (torch.float16, "product", (2,), 5), (torch.float64, "max", (), 5),
]
for dtype, combine, left_out, num_j in CASES:
    full, part = MockTensor(dtype), MockTensor(torch.promote_types(dtype, torch.float32))
    others, sums = (tuple(None if k in left_out else tensor for k in range(3)) for tensor in (full, part))
    options = {"COMBINE": combine, "TILE": (16, 64 if num_j > 1 else 1), "enable_fp_fusion": True, "grid": (1,)}
    for kernel, maps, outputs in (
        (triton_gate._forward, (full,), (full,)),
        (triton_gate._backward, (full, full), (full, *sums)),
    ):
        assert "ptx" in kernel.warmup(maps, others, outputs, (7, num_j), **options).asm
"""
