"""`record.json`: the recipe, environment, cost and results of a run."""

import csv
import io
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from bam.files import check_types, read_json, strict_json, write_atomically

FILE_NAME = "record.json"
CLASSES = "classes.csv"  #: beside the record of a classification run: test images and errors of each class


@dataclass(frozen=True)
class Measure:
    """A result used to compare networks, stored in records as a share of 1."""

    key: str  #: its name in a record's history and final results
    label: str
    meaning: str
    higher_is_better: bool = False


TEST_ERROR = Measure("test_error", "test error", "images whose class is not the most likely one")
TEST_ERROR_TOP5 = Measure("test_error_top5", "top-5", "images whose class is not among the five most likely ones")


@dataclass
class Record:
    """The record of one run. Errors are shares of 1, times are in seconds, rates in images per second."""

    recipe: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=dict)  #: params, macs
    sites: list[str] = field(default_factory=list)
    num_classes: int = 0
    classes: list[str] = field(default_factory=list)  #: class names; empty in records of the first versions
    vocabulary: list[str] = field(default_factory=list)  #: the words that a network for questions knows
    image_size: list[int] = field(default_factory=list)  #: height, width
    normalization: dict[str, list[float]] = field(default_factory=dict)  #: per-channel mean and std, from 0 to 1
    #: Precision -> milliseconds of a training step, where the precision was chosen by measurement.
    step_ms: dict[str, float] = field(default_factory=dict)
    #: Kernel -> milliseconds of BAM's modules in a training step, likewise.
    kernel_ms: dict[str, float] = field(default_factory=dict)
    data: str = ""  #: fingerprint of the training and test images
    #: One entry per epoch; "unreadable" is the number of training and test images left out, if any.
    history: list[dict[str, float]] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)  #: figures of the last epoch; empty until the run is complete
    measures: list[Measure] = field(default_factory=list)  #: measures among the final figures; the first one decides
    #: Why the run failed: step, lr, good_step (step of the last good state) and reason; empty if it did not fail.
    failure: dict[str, Any] = field(default_factory=dict)
    #: One entry per start or resume of the run: the environment, and the first step ("from_step").
    stretches: list[dict[str, Any]] = field(default_factory=list)
    format: int = 1

    @property
    def complete(self) -> bool:
        """Whether the run has finished."""
        return bool(self.final)

    def write(self, folder: Path) -> None:
        """Write `folder`/record.json."""
        write_atomically(folder / FILE_NAME, strict_json(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Read `folder`/record.json.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or not a record this version can read.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no run: there is no {path.name}")
        content = read_json(path, "move it away to run again")
        known = get_type_hints(cls) | {"measures": list[dict[str, Any]], "history": list[dict[str, Any]]}
        if content.get("format") != 1 or not known.keys() >= content.keys() >= {"recipe"}:
            raise ValueError(f"{path} is not a record of format 1, which this version of bam reads")
        check_types(content, known, path)
        record = cls(**content)
        try:
            record.measures = [Measure(**measure) for measure in content.get("measures", [])]
        except TypeError as error:
            raise ValueError(f"{path} is damaged (measures: {error}); move it away to run again") from None
        if record.final and not record.measures:  # a record of the first versions (classification only)
            record.measures = [measure for measure in (TEST_ERROR, TEST_ERROR_TOP5) if measure.key in record.final]
        # Earlier versions trained on after divergence and stored the outcome as a result.
        if not all(isinstance(value, int) or math.isfinite(value) for value in record.final.values()):
            record.failure = {"reason": "training diverged: its results are not finite"}
            record.final = {}
        return record


@dataclass(frozen=True)
class ClassResult:
    """Results on the test images of one class, as shares of 1."""

    name: str
    count: int  #: its test images, or its objects
    errors: int | None = None  #: how many of these are wrong; None if this is not counted
    figures: dict[str, float] = field(default_factory=dict)  #: other results


@dataclass(frozen=True)
class Breakdown:
    """Results on labelled images, in total and class by class, as shares of 1."""

    num_images: int  #: number of measured images
    measures: list[Measure]
    figures: dict[str, float]  #: measure -> result
    unit: str  #: what is counted in each class: "images" or "objects"
    classes: list[ClassResult]  #: the classes that occur in the images
    errors: dict[str, int] = field(default_factory=dict)  #: measure -> wrong images, for measures that count them
    predicted: list[str] = field(default_factory=list)  #: column names of `confusion`
    confusion: list[list[int]] = field(default_factory=list)  #: images of each of `classes` by predicted class


def classes_csv(names: Sequence[str], counts: Sequence[tuple[int, int]]) -> str:
    """The text of classes.csv, given the images and errors of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "images", "errors"])
    writer.writerows([name, *numbers] for name, numbers in zip(names, counts, strict=True))
    return text.getvalue()


def read_classes(folder: Path) -> list[ClassResult]:
    """The per-class results of the run in `folder`; empty if it has none (other tasks, earlier versions).

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / CLASSES
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *rows = csv.reader(file)
        if header != ["class", "images", "errors"]:
            raise ValueError(f"unexpected columns {header}")
        return [ClassResult(name, int(images), int(errors)) for name, images, errors in rows]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to report without it") from None


def environment(device: str, precision: str, kernel: str, processes: int = 1) -> dict[str, Any]:
    """The software and hardware of a run."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for package in ("bottleneck-attention", "torch", "torchvision", "accelerate", "pillow", "faster-coco-eval"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    processor = torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name()
    return {
        "python": platform.python_version(),
        "versions": versions,
        "system": platform.platform(terse=True),
        "device": device,
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "precision": precision,
        "kernel": kernel,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
