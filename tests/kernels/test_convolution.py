from functools import partial

import pytest
import torch

from bam.kernels import convolution, convolve, formula

FORMATS = [torch.contiguous_format, torch.channels_last]


def operands(channels, out, kernel, dtype=torch.float64, memory_format=torch.contiguous_format, size=(9, 19, 25)):
    torch.manual_seed(0)
    n, h, w = size
    features = torch.randn(n, channels, h, w).to(dtype).to(memory_format=memory_format)
    weight = torch.randn(out, channels, kernel, kernel).to(dtype).to(memory_format=memory_format)
    return features, weight, torch.randn(out).to(dtype)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("channels", "out", "kernel"), [(1, 1, 3), (2, 2, 3), (1, 1, 1), (5, 1, 1), (16, 16, 1)])
def test_it_is_a_convolution(channels, out, kernel, dtype, memory_format):
    inputs = operands(channels, out, kernel, dtype, memory_format)
    expected = formula.convolve(*(t.double() for t in inputs), 2)
    exact = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 32 * torch.finfo(dtype).eps, "check_dtype": False}
    computed = convolve(*inputs, 2)
    torch.testing.assert_close(computed, expected, **exact)
    assert computed.dtype == dtype
    torch.testing.assert_close(convolve(*(t.clone().requires_grad_() for t in inputs), 2), expected, **exact)


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_are_stored_as_nchw_even_one(channels):
    features, weight, bias = operands(channels, channels, 3, memory_format=torch.channels_last)
    features = features.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    expected = torch.empty(features.shape).stride()
    assert features.stride() != expected
    assert convolve(features, weight, bias, 2).stride() == expected
    assert convolve(features, weight.requires_grad_(), bias, 2).stride() == expected


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # as in test_gate
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("channels", "out", "kernel"), [(1, 1, 3), (2, 3, 3), (2, 1, 1)])
@pytest.mark.parametrize(("size", "dilation"), [((2, 3, 4), 2), ((1, 3, 2), 4)])
def test_derivatives_forward_backward_and_second(channels, out, kernel, size, dilation, memory_format, monkeypatch):
    monkeypatch.setattr(convolution, "_is_narrow", lambda *_: True)  # also such small maps
    inputs = [t.requires_grad_() for t in operands(channels, out, kernel, memory_format=memory_format, size=size)]
    function = partial(convolve, dilation=dilation)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_frozen_inputs(kernel, frozen):
    gradients = []
    for function in (convolve, formula.convolve):
        inputs = [t.requires_grad_(k not in frozen) for k, t in enumerate(operands(2, 2, kernel))]
        function(*inputs, 4).square().sum().backward()
        gradients.append([t.grad for t in inputs])
    assert [g is None for g in gradients[0]] == [k in frozen for k in range(3)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kernel", [1, 3])
def test_autocast_computes_in_its_type(kernel):
    inputs = [t.float().requires_grad_() for t in operands(2, 2, kernel)]
    with torch.autocast("cpu", torch.bfloat16):
        computed = convolve(inputs[0].bfloat16(), *inputs[1:], 2)
    computed.square().sum().backward()
    assert computed.dtype == torch.bfloat16
    assert all(t.grad.dtype == torch.float32 for t in inputs)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    formula.convolve(*exact, 2).square().sum().backward()
    for mine, theirs in zip(inputs, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=0.05, atol=0.05 * theirs.grad.abs().max())


def test_an_expanded_gradient():
    gradients = []
    for function in (convolve, formula.convolve):
        inputs = [t.requires_grad_() for t in operands(2, 2, 3)]
        output = function(*inputs, 4)
        gradients.append(torch.autograd.grad(output, inputs, torch.ones(1, dtype=torch.float64).expand_as(output)))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kernel", [1, 3])
def test_operands_of_several_types_are_refused_as_by_torch(kernel):
    features, weight, bias = operands(2, 2, kernel, torch.bfloat16)
    with pytest.raises(RuntimeError, match="type"):
        convolve(features, weight, bias.float(), 2)


def test_without_a_bias():
    features, weight, _ = operands(2, 2, 3)
    torch.testing.assert_close(convolve(features, weight, None, 2), formula.convolve(features, weight, None, 2))
