"""Training: one readable loop, exact resume, and the paired comparison."""

from bam.training.comparison import compare
from bam.training.run import run
from bam.training.session import Interrupted, build_model

__all__ = ["Interrupted", "build_model", "compare", "run"]
