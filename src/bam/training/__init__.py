"""Training: one readable loop, exact resume and paired comparison."""

from bam.training.comparison import compare
from bam.training.memory import keep_freed_memory
from bam.training.run import run
from bam.training.session import Interrupted
from bam.training.trained import trained_model, training_images

__all__ = [
    "Interrupted", "compare", "keep_freed_memory", "run", "trained_model", "training_images",
]  # fmt: skip
