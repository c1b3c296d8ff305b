"""The arithmetic of the gate and of what both branches read, apart from the modules that own the parameters.

| file | what it holds |
|---|---|
| `formula.py` | the specification: what `gate` and `pool_and_reduce` compute, in plain operations |
| `autograd.py` | what every hand-written backward pass needs, and when it must give way to the formula |
| `reduce.py` | `pool_and_reduce`, with a backward pass of its own |
| `torch_gate.py` | the gate by torch's operations, with a backward pass of its own |
| `triton_gate.py` | the gate as Triton kernels |
| `backend.py` | which of the two computes |
| `dispatch.py` | `gate`, which asks `backend.py` and calls that one |

Each file imports only files above it.
"""

from bam.kernels.dispatch import GateOptions, gate
from bam.kernels.formula import COMBINE
from bam.kernels.reduce import pool_and_reduce

__all__ = ["COMBINE", "GateOptions", "gate", "pool_and_reduce"]
