"""How a run is carried out, as opposed to what it computes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that change nothing of its result.

    Attributes:
        data_root: folder of the data (default: $BAM_DATA, or data).
        device: cpu or cuda (default: a GPU if there is one; which: CUDA_VISIBLE_DEVICES).
        save_minutes: minutes between saved states, besides one after every epoch.
    """

    data_root: Path | None = None
    device: str | None = None
    save_minutes: float = 2.0
