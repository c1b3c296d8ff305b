"""Maxima that are pooled on a CPU in training, against torch's `amax`."""

import pytest
import torch

from bam.kernels import maxima

PAIRS = [
    (maxima.over_places, lambda x: x.amax((2, 3))),
    (maxima.over_channels, lambda x: x.amax(1, keepdim=True)),
]


@pytest.mark.parametrize(("ours", "wanted"), PAIRS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 5, 4, 6), (1, 1, 2, 3), (2, 7, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_values_and_gradients(ours, wanted, layout, size, dtype):
    numbers = torch.randperm(torch.Size(size).numel()).to(dtype)  # no two are equal
    x = numbers.view(size).to(memory_format=layout).requires_grad_()
    maximum, expected = ours(x), wanted(x)
    assert torch.equal(maximum, expected) and torch.equal(ours(x.detach()), expected)
    gradient = torch.randn_like(expected)
    assert torch.equal(torch.autograd.grad(maximum, x, gradient)[0], torch.autograd.grad(expected, x, gradient)[0])


@pytest.mark.parametrize(("ours", "wanted"), PAIRS)
def test_nan_and_equal_maxima(ours, wanted):
    x = torch.ones(1, 2, 1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(x).sum(), x)
    assert gradient.sum() == 2 and set(gradient.flatten().tolist()) == {0, 1}  # the first gets all of it
    nan = torch.tensor([[[[1.0, float("nan")]], [[2.0, 3.0]]]], requires_grad=True)
    torch.testing.assert_close(ours(nan), wanted(nan), equal_nan=True)


# torch's own forward mode scripts its decompositions when it is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("ours", [pair[0] for pair in PAIRS])
def test_derivatives_first_batched_and_second(ours):
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(ours, x)
    torch.func.vmap(torch.func.grad(lambda t: ours(t[None]).sum()))(x.detach())
