"""Options of a run that do not affect its result."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that do not affect its result.

    Raises:
        ValueError: for negative minutes.

    Attributes:
        data_root: folder of the data (default: $BAM_DATA, or data).
        device: cpu or cuda (default: a GPU if there is one; CUDA_VISIBLE_DEVICES chooses which).
        save_minutes: minutes between saved states; every epoch also ends with one.
        log: trackers for curves, besides steps.csv: csv (epochs.csv), tensorboard (folder logs), wandb, mlflow, trackio
            and Accelerate's other trackers, separated by commas. A comparison also sends its pictures.
        allow_mixed: resume a run even with another number of processes; the record and report say so.
    """

    data_root: Path | None = None
    device: str | None = None
    save_minutes: float = 2.0
    log: str = ""
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        """Check values."""
        if not self.save_minutes >= 0:
            raise ValueError(f"save_minutes must be at least 0, got {self.save_minutes}")
