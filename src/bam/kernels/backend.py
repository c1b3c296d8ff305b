"""The choice between the implementations of the gate: `torch_gate.py`, `inductor_gate.py` and `triton_gate.py`."""

import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from bam import private
from bam.kernels.autograd import has_tangent, is_ordinary
from bam.kernels.layout import is_channels_last

#: Valid values of `kernel=` and of the environment variable BAM_KERNEL.
KERNELS = ("auto", "torch", "inductor", "triton")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def named(kernel: str | None) -> str:
    """Return `kernel`; for None, the environment variable BAM_KERNEL or "auto".

    Raises:
        ValueError: if the name is not in `KERNELS`.
    """
    name, source = (kernel, "kernel") if kernel is not None else (os.environ.get("BAM_KERNEL") or "auto", "BAM_KERNEL")
    if name not in KERNELS:
        raise ValueError(f"{source} must be one of {', '.join(KERNELS)}, got {name!r}")
    return name


def compiler() -> str:
    """The C++ compiler that Inductor uses on a CPU."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def implementation(kernel: str | None, tensors: Sequence[Tensor | None]) -> str:
    """The implementation that computes the gate of `tensors`: "torch", "inductor" or "triton".

    The first tensor is the features. "auto" is torch; long runs of `bam train` measure instead. Whatever the kernel,
    exported programs contain torch operations only, and the meta device computes nothing. Inductor is for plain eager
    mode: a network that is compiled as a whole compiles its gates, too.

    Raises:
        ValueError: for an unknown `kernel`.
        RuntimeError: if `kernel` is "triton" and Triton cannot compute.
    """
    name, features = named(kernel), tensors[0]
    assert features is not None
    if name in ("auto", "torch") or torch.compiler.is_exporting() or features.device.type == "meta":
        return "torch"
    if name == "inductor":
        stored_as_usual = features.is_contiguous() or is_channels_last(features)
        return "inductor" if is_ordinary(tensors) and stored_as_usual else "torch"
    obstacle = _obstacle(tensors)
    if obstacle is not None:
        raise RuntimeError(
            f"kernel='triton' or BAM_KERNEL=triton: Triton cannot compute the gate here: {obstacle}; "
            "use kernel='torch', which works everywhere (for an existing module: module.kernel = 'torch'; in bam "
            "train: --kernel torch)"
        )
    return "triton"


def _obstacle(tensors: Sequence[Tensor | None]) -> str | None:
    """The reason Triton cannot compute with these tensors, or None."""
    present = [t for t in tensors if t is not None]
    if private.functorch_is_active():
        return "it does not support torch.func transforms (vmap, grad, jvp)"
    if not torch.compiler.is_compiling():
        if torch.jit.is_tracing():
            return "torch.jit.trace does not record it"
        if any(has_tangent(t) for t in present):
            return "it has no forward-mode derivative"
    for t in present:
        if t.dtype not in _DTYPES:
            return f"it computes with float16, bfloat16, float32 and float64, not {t.dtype}"
        if t.device != present[0].device:
            return f"the tensors are on {present[0].device} and {t.device}"
    try:
        from bam.kernels.triton_gate import INTERPRETED
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if present[0].device.type != "cuda" and not INTERPRETED:
        return f"the tensors are on {present[0].device}, and it needs a GPU (or TRITON_INTERPRET=1, for tests)"
    return None
