"""Training: one readable loop, exact resume and paired comparison."""

from bam.training.comparison import compare, earlier_comparisons, planned_seeds
from bam.training.memory import keep_freed_memory
from bam.training.run import run
from bam.training.stopping import Diverged, Interrupted
from bam.training.trained import opened_run, trained_model, training_images

__all__ = [
    "Diverged", "Interrupted", "compare", "earlier_comparisons", "keep_freed_memory", "opened_run", "planned_seeds",
    "run", "trained_model", "training_images",
]  # fmt: skip
