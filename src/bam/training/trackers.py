"""Curves of a run for TensorBoard, Weights & Biases, MLflow and others, through Accelerate, or as a CSV file."""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers
from PIL import Image

from bam.files import write_atomically
from bam.recipes import Recipe

CSV = "csv"
EPOCHS = "epochs.csv"  #: written by "csv", a row for each epoch; steps.csv is always written
FOLDER = "logs"


def trackers_of(text: str) -> list[str]:
    """Parse a list of trackers, e.g. "tensorboard,csv".

    Raises:
        ValueError: for an unknown tracker.
        ImportError: for a tracker that is not installed.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = [CSV, *LOGGER_TYPE_TO_CLASS]
    for name in names:
        if name not in known:
            raise ValueError(f"log: unknown tracker {name!r}; known: {', '.join(known)}")
        if name != CSV and not filter_trackers([name], FOLDER):
            raise ImportError(f"log: {name} is not installed: pip install {name.replace('comet_ml', 'comet-ml')}")
    return names


@contextlib.contextmanager
def tracking(accelerator: Accelerator, names: Sequence[str], out: Path, recipe: Recipe) -> Iterator[None]:
    """Open Accelerate's trackers for the run in `out`; `accelerator.log` then writes to them."""
    others = [name for name in names if name != CSV]
    if not others:
        yield
        return
    accelerator.log_with = filter_trackers(others, out / FOLDER)
    accelerator.project_configuration.logging_dir = str(out / FOLDER)
    settings = {name: value for name, value in recipe.as_dict().items() if isinstance(value, str | int | float | bool)}
    accelerator.init_trackers("bam", settings, {"wandb": {"name": out.name}} if "wandb" in others else {})
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def log_pictures(accelerator: Accelerator, names: Sequence[str], out: Path, recipe: Recipe) -> None:
    """Send the PNG pictures in the folder `out` to the trackers that take images, such as TensorBoard."""
    with tracking(accelerator, names, out, recipe):
        for tracker in accelerator.trackers:
            if hasattr(tracker, "log_images"):
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                for path in sorted(out.glob("**/*.png")):
                    with Image.open(path) as picture:
                        pixels = np.asarray(picture.convert("RGB"))
                    tracker.log_images({str(path.relative_to(out).with_suffix("")): pixels[None]}, step=0, **options)


def write_epochs(history: Sequence[Mapping[str, float]], out: Path) -> None:
    """Write epochs.csv: a row for each epoch so far."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in history for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(out / EPOCHS, text.getvalue())
