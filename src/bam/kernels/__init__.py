"""The arithmetic behind BAM: the gate, and the pooling and reduction that feed both branches. It has no parameters.

| file | what it holds |
|---|---|
| `layout.py` | the memory layout of feature maps |
| `formula.py` | the specification: `gate`, `pool_and_reduce` and `convolve` in plain operations |
| `autograd.py` | shared code for hand-written backward passes, and when to use the formula instead |
| `reduce.py` | `pool_and_reduce`, with a hand-written backward pass |
| `maxima.py` | maxima over places or channels, for CBAM |
| `convolution.py` | `convolve`, for few channels on a CPU |
| `torch_gate.py` | the gate in torch operations, with a hand-written backward pass |
| `inductor_gate.py` | the gate compiled by torch.compile, in eager networks |
| `triton_gate.py` | the gate as Triton kernels |
| `backend.py` | the choice between the three |
| `dispatch.py` | `gate`, which calls the implementation `backend.py` chooses |

Each file imports only files above it.
"""

from bam.kernels.convolution import convolve, stored_for_convolve
from bam.kernels.dispatch import GateOptions, gate
from bam.kernels.formula import COMBINE
from bam.kernels.reduce import pool_and_reduce

__all__ = ["COMBINE", "GateOptions", "convolve", "gate", "pool_and_reduce", "stored_for_convolve"]
