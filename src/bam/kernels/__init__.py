"""The arithmetic of the gate, kept apart from the modules that own its parameters."""

from bam.kernels.gate import COMBINE, gate
from bam.kernels.reduce import pool_and_reduce

__all__ = ["COMBINE", "gate", "pool_and_reduce"]
