import pytest
import torch
from torch.autograd import forward_ad

from bam.kernels import GateOptions, gate, inductor_gate


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
def test_gate_is_the_equation(memory_format, combine):
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64).to(memory_format=memory_format)
    mc, ms = torch.randn(2, 5, 1, 1, dtype=torch.float64), torch.randn(2, 1, 3, 4, dtype=torch.float64)
    both = {"sum": mc + ms, "product": mc * ms, "max": torch.max(mc.expand_as(x), ms.expand_as(x))}[combine]
    y = gate(x, mc, ms, options=GateOptions(combine))
    torch.testing.assert_close(y, x + x * torch.sigmoid(both))
    assert y.is_contiguous(memory_format=memory_format)
    scale = torch.tensor([0.25], dtype=torch.float64)
    scaled = gate(x, mc, ms, scale=scale, options=GateOptions(combine))
    torch.testing.assert_close(scaled, x + 0.25 * x * torch.sigmoid(both))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 40, 300])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("alone", ["", "channel", "spatial"])
def test_bfloat16_is_exact_up_to_rounding(memory_format, channels, batch, alone):
    x = torch.randn(2, channels, 3, 4).bfloat16().to(memory_format=memory_format)
    mc, ms = 4 * torch.randn(batch, channels, 1, 1).bfloat16(), 4 * torch.randn(2, 1, 3, 4).bfloat16()
    mc, ms = None if alone == "spatial" else mc, None if alone == "channel" else ms
    logits = sum(t.double() for t in (mc, ms) if t is not None)
    expected = x.double() * (1 + torch.sigmoid(logits))
    for computed in (gate(x, mc, ms), gate(x.clone().requires_grad_(), mc, ms)):
        torch.testing.assert_close(computed.double(), expected, rtol=torch.finfo(torch.bfloat16).eps, atol=0)
        assert computed.is_contiguous(memory_format=memory_format)


def test_large_bfloat16_logits_cancel_or_saturate():
    x, columns = torch.ones(1, 4, 1, 4).bfloat16(), torch.tensor([-300.0, -70.0, 70.0, 300.0]).bfloat16()
    y = gate(x, columns.view(1, 4, 1, 1), columns.view(1, 1, 1, 4))
    low, half, high = 1.0, 1.5, 2.0
    expected = [[low, low, low, half], [low, low, half, high], [low, half, high, high], [half, high, high, high]]
    torch.testing.assert_close(y[0, :, 0].float(), torch.tensor(expected))


@pytest.mark.parametrize(
    "sizes", [((1, 4, 1, 1), (1, 1, 3, 5)), ((2, 4, 1, 1), (1, 1, 1, 1)), ((1, 4, 1, 1), (2, 1, 3, 5))]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kernel", ["torch", "inductor"])
def test_logits_are_broadcast(kernel, dtype, sizes, monkeypatch):
    monkeypatch.setattr(inductor_gate, "_run", lambda function, *inputs: function(*inputs))  # compiling takes seconds
    x = torch.randn(2, 4, 3, 5).to(dtype)
    mc, ms = (torch.randn(size).to(dtype) for size in sizes)
    expected = x.double() * (1 + torch.sigmoid(mc.double() + ms.double()))
    rounding = {"rtol": torch.finfo(dtype).eps, "atol": 0}
    options = GateOptions(kernel=kernel)
    torch.testing.assert_close(gate(x, mc, ms, options=options).double(), expected, **rounding)
    inputs = [t.clone().requires_grad_() for t in (x, mc, ms)]
    output = gate(*inputs, options=options)
    output.sum().backward()
    torch.testing.assert_close(output.double(), expected, **rounding)
    assert [t.grad.shape for t in inputs] == [t.shape for t in inputs]


def test_autocast_to_another_type_changes_nothing():
    x, mc, ms = torch.randn(2, 4, 3, 5).bfloat16(), torch.randn(2, 4, 1, 1), torch.randn(2, 1, 3, 5)
    with torch.autocast("cpu", torch.float16):
        y = gate(x, mc, ms)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, gate(x, mc, ms), rtol=0.01, atol=0.01)


def test_logits_of_another_type_do_not_change_the_type():
    x = torch.randn(2, 5, 3, 4, dtype=torch.bfloat16)
    assert gate(x, torch.randn(2, 5, 1, 1), torch.randn(2, 1, 3, 4)).dtype == torch.bfloat16


# torch's own forward mode scripts its decompositions when it is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("combine", ["sum", "product", "max"])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_derivatives_forward_backward_and_second(combine, scaled, memory_format):
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64).to(memory_format=memory_format)
    inputs = [x, torch.randn(2, 3, 1, 1, dtype=torch.float64), torch.randn(2, 1, 2, 3, dtype=torch.float64)]
    inputs += [torch.tensor([0.7], dtype=torch.float64)] if scaled else []
    inputs = [t.requires_grad_() for t in inputs]

    def function(x, mc, ms, scale=None):
        return gate(x, mc, ms, scale=scale, options=GateOptions(combine))

    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("size", [(2, 3, 1, 1), (2, 1, 2, 3), (2, 1, 1, 1)])
@pytest.mark.parametrize("combine", ["sum", "product"])
def test_gradients_if_the_map_has_one_place_or_channel(combine, size):
    n, c, h, w = size
    shapes = [size, (n, c, 1, 1), (n, 1, h, w), (1,)]
    x, mc, ms, scale = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(
        lambda *t: gate(*t[:3], scale=t[3], options=GateOptions(combine)), (x, mc, ms, scale)
    )


def test_gradients_if_features_are_broadcast():
    x, logits = (torch.randn(2, c, 2, 3, dtype=torch.float64, requires_grad=True) for c in (1, 3))
    y = gate(x, logits, None)
    gradients = torch.autograd.grad(y, (x, logits), g := torch.randn_like(y))
    torch.testing.assert_close(gradients, torch.autograd.grad(x + x * torch.sigmoid(logits), (x, logits), g))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_a_gradient_may_carry_a_tangent():
    x, mc, ms = torch.randn(2, 3, 2, 3, requires_grad=True), torch.randn(2, 3, 1, 1), torch.randn(2, 1, 2, 3)
    mc.requires_grad_()
    g, t = torch.randn(2, 2, 3, 2, 3)
    with forward_ad.dual_level():
        gradients = torch.autograd.grad(gate(x, mc, ms), (x, mc), forward_ad.make_dual(g, t))
        tangents = [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]
    torch.testing.assert_close(tangents, list(torch.autograd.grad(gate(x, mc, ms), (x, mc), t)))


def test_only_wanted_gradients_are_computed():
    x, mc, ms = torch.randn(2, 3, 2, 3), torch.randn(2, 3, 1, 1), torch.randn(2, 1, 2, 3, requires_grad=True)
    gate(x, mc, ms).sum().backward()
    m = torch.sigmoid(mc + ms.detach())
    torch.testing.assert_close(ms.grad, (x * m * (1 - m)).sum(1, keepdim=True))
