import copy
from functools import partial

import pytest
import torch

from bam import BAM
from bam.costs import saved_bytes
from bam.kernels import GateOptions, gate, pool_and_reduce
from tests.conftest import restless

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_it_is_an_average_and_a_convolution(memory_format, dtype):
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64).to(dtype).to(memory_format=memory_format)
    weight, bias = torch.randn(2, 6, 1, 1).to(dtype), torch.randn(2).to(dtype)
    same, averages, reduced = pool_and_reduce(x, weight, bias)
    assert torch.equal(same, x)
    exact = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps, "check_dtype": False}
    torch.testing.assert_close(averages, x.double().mean((2, 3)), **exact)
    expected = torch.einsum("nchw,oc->nohw", x.double(), weight.double().flatten(1)) + bias.double()[:, None, None]
    torch.testing.assert_close(reduced, expected, **exact)
    assert averages.dtype == reduced.dtype == dtype


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # as in test_gate
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("size", [(2, 3, 4), (1, 1, 1), (3, 1, 2)])
def test_derivatives_forward_backward_and_second(memory_format, size):
    n, h, w = size
    x = torch.randn(n, 3, h, w, dtype=torch.float64).to(memory_format=memory_format)
    inputs = [x, torch.randn(2, 3, 1, 1, dtype=torch.float64), torch.randn(2, dtype=torch.float64)]
    inputs = [t.requires_grad_() for t in inputs]

    def function(*inputs):
        features, averages, reduced = pool_and_reduce(*inputs)
        together = features * features * averages[:, :, None, None] * reduced.sum(1, keepdim=True)
        return together, averages, reduced  # of the first all three have a gradient, of the others one

    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_outputs_that_nobody_uses(used):
    x, weight, bias = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 1, 1), torch.randn(2)
    twins = [[t.clone().requires_grad_() for t in (x, weight, bias)] for _ in range(2)]
    outputs = pool_and_reduce(*twins[0])
    x, weight, bias = twins[1]
    expected = (x.clone(), x.mean((2, 3)), torch.nn.functional.conv2d(x, weight, bias))
    for some in (outputs, expected):
        sum(some[k].square().sum() for k in used).backward()
    for mine, theirs in zip(*twins, strict=True):
        assert (mine.grad is None or not mine.grad.any()) == (theirs.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("frozen", ["weight", "bias", "both", "features"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_frozen_inputs(frozen, memory_format):
    computed = []
    for function in (pool_and_reduce, lambda x, w, b: (x, x.mean((2, 3)), torch.nn.functional.conv2d(x, w, b))):
        torch.manual_seed(0)
        x, weight, bias = (
            torch.randn(2, 3, 4, 5).to(memory_format=memory_format),
            torch.randn(2, 3, 1, 1),
            torch.randn(2),
        )
        x.requires_grad_(frozen != "features")
        weight.requires_grad_(frozen not in ("weight", "both"))
        bias.requires_grad_(frozen not in ("bias", "both"))
        features, averages, reduced = function(x, weight, bias)
        # Gradients that share memory, expanded and with others' gradients, as no caller has them to itself.
        (features.sum() + (features + x).square().sum() + averages.square().sum() + reduced.square().sum()).backward()
        assert [t.grad is not None for t in (x, weight, bias)] == [t.requires_grad for t in (x, weight, bias)]
        computed.append([t.grad for t in (x, weight, bias) if t.requires_grad])
    torch.testing.assert_close(*computed)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_of_a_module_used_twice(memory_format):
    """Also differentiable ones: what the second use reads comes from the parameters, too."""
    module = restless(BAM(8, identity=True)).double().eval()
    torch.nn.init.constant_(module.scale, 0.7)
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    inputs = [x, *module.parameters()]

    def gradients(**options):
        return torch.autograd.grad(module(module(x)).square().sum(), inputs, **options)

    plain = gradients()
    torch.testing.assert_close(gradients(create_graph=True), plain)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        loss = module(module(x)).square().sum()
    with torch.autocast("cpu", torch.bfloat16):  # a backward pass called there computes in its own types
        torch.testing.assert_close(torch.autograd.grad(loss, inputs), plain)
    directions = torch.randn(3, *x.shape, dtype=torch.float64)
    batched = torch.autograd.grad(module(x), inputs, directions, is_grads_batched=True)
    for k in range(3):
        torch.testing.assert_close([t[k] for t in batched], list(torch.autograd.grad(module(x), inputs, directions[k])))
    channel, spatial = module.branches(x * (sum(module.branches(x))))
    assert torch.autograd.grad((channel + spatial).sum(), [x])[0].isfinite().all()


def test_the_output_is_no_view():
    """In-place operations after it (a residual addition, a ReLU) would copy what it is a view of."""
    for memory_format in FORMATS:
        y = BAM(8)(torch.randn(2, 8, 4, 5).to(memory_format=memory_format).requires_grad_())
        assert not y._is_view() and y.is_contiguous(memory_format=memory_format)


def test_a_reduction_that_wants_to_be_called():
    """With hooks, or replaced by another layer."""
    module = BAM(8).eval()
    x = torch.randn(2, 8, 4, 5)
    expected = module(x)
    handle = module.spatial.reduce.register_forward_hook(lambda layer, inputs, output: output + 1)
    assert not torch.allclose(module(x), expected)
    handle.remove()
    module.spatial.reduce = torch.nn.Sequential(module.spatial.reduce)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("arriving", FORMATS)
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
def test_a_gradient_of_another_layout(layout, arriving, combine):
    """A gradient that reaches the module NCHW though the features are NHWC, or the other way round."""
    module = restless(BAM(16, combine=combine))
    x = torch.randn(2, 16, 5, 6).to(memory_format=layout).requires_grad_()
    gradient = torch.randn(2, 16, 5, 6).to(memory_format=arriving)
    kept = gradient.clone()
    module(x).backward(gradient)
    assert torch.equal(gradient, kept)  # what is added to in place is the module's own
    twin = x.detach().double().requires_grad_()
    restored = copy.deepcopy(module).double()
    for mine, theirs in zip(restored.modules(), module.modules(), strict=True):
        if isinstance(mine, torch.nn.modules.batchnorm._BatchNorm):
            mine.load_state_dict(theirs.state_dict())
    restored(twin).backward(gradient.double())
    torch.testing.assert_close(x.grad, twin.grad.float(), rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(restored.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad.float(), rtol=1e-3, atol=1e-4)


def test_backward_twice_through_a_kept_graph():
    module = restless(BAM(16))
    x = torch.randn(2, 16, 5, 6).requires_grad_()
    loss = module(x).square().sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(loss, x)[0], first)


@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_recomputing_gives_the_same_bits_and_saves_no_map(combine, memory_format):
    x = torch.randn(2, 8, 16, 16).to(memory_format=memory_format)
    logits = torch.randn(2, 8, 1, 1), torch.randn(2, 1, 16, 16)
    computed = []
    for recompute in (False, True):
        compute = partial(gate, options=GateOptions(combine, recompute))
        inputs = [t.clone().requires_grad_() for t in (x, *logits)]
        saved = saved_bytes(partial(compute, *inputs), *inputs)
        assert saved == (0 if recompute else x.nbytes) or combine == "max"
        assert not recompute or saved < x.nbytes / 2
        compute(*inputs).square().sum().backward()
        computed.append([t.grad for t in inputs])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*computed, strict=True))


@pytest.mark.parametrize(("recompute", "most"), [(False, 1.4), (True, 0.4)])
def test_what_the_module_saves(recompute, most):
    """In units of F, besides F; the targets of docs/performance.md."""
    module = BAM(256, recompute=recompute)
    x = torch.randn(4, 256, 56, 56, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    known = [x, *module.parameters(), *module.buffers()]
    with torch.autocast("cpu", torch.bfloat16):
        share = saved_bytes(lambda: module(x), *known) / x.nbytes
    assert 0.2 < share - (not recompute) and share <= most
