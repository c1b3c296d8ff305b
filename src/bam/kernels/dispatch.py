"""The gate F' = F + F * sigmoid(Mc + Ms), computed by the implementation `backend.py` chooses."""

from typing import NamedTuple

from torch import Tensor

from bam.kernels import inductor_gate, torch_gate
from bam.kernels.backend import implementation


class GateOptions(NamedTuple):
    """How the gate is computed.

    Args:
        combine: "sum", "product" or "max" of the two logits (a key of `COMBINE`).
        recompute: in eager training, compute M(F) again in the backward pass instead of keeping it. Triton and Inductor
            never keep it.
        kernel: "auto", "torch", "inductor" or "triton"; None reads BAM_KERNEL from the environment, and defaults to
            "auto". Under torch.compile, the environment is read at compile time.
    """

    combine: str = "sum"
    recompute: bool = False
    kernel: str | None = None


_DEFAULT = GateOptions()


def gate(
    features: Tensor,
    channel_logits: Tensor | None,
    spatial_logits: Tensor | None,
    *,
    scale: Tensor | None = None,
    options: GateOptions = _DEFAULT,
) -> Tensor:
    """F' = F + F * M(F), M(F) = sigmoid(Mc(F) + Ms(F)) (BAM, equations 1 and 2, https://arxiv.org/abs/1807.06514).

    Shapes: features (N, C, H, W), channel_logits (N, C, 1, 1), spatial_logits (N, 1, H, W), scale (1,). One of the
    logits may be None; the map is then the sigmoid of the other. With `scale` s the map is weighted:
    F' = F + s * F * M(F). The output has the type and memory layout of `features`.

    Raises:
        ValueError: for an unknown kernel.
        RuntimeError: if the kernel is "triton" or "inductor" and cannot compute.
    """
    combine, recompute, kernel = options
    operands = (features, channel_logits, spatial_logits, scale)
    chosen = implementation(kernel, operands)
    if chosen == "triton":
        from bam.kernels import triton_gate  # only here, because Triton may not be installed

        return triton_gate.gate(*operands, combine)
    if chosen == "inductor":
        return inductor_gate.gate(*operands, combine)
    return torch_gate.gate(*operands, combine, recompute)
