"""Classify your own images: the most likely classes with their probabilities, as a CSV and a JSON file."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

from bam.data.files.decoding import read_rgb
from bam.data.files.workers import decode, default_workers
from bam.data.interface import Track
from bam.files import strict_json, write_atomically
from bam.tasks.classification.network import class_logits
from bam.tasks.task import Trained

TOP = 5  #: classes per image
_BATCH = 32
_SHOWN, _SHOWN_CLASSES = 20, 3  # rows and classes of the printed table


class Decoded(NamedTuple):
    """Images, float32 (n, C, H, W), their numbers, and (number, problem) of each unreadable image."""

    images: Tensor
    numbers: list[int]
    unreadable: list[tuple[int, str]]


class Prediction(NamedTuple):
    """The most likely classes of an image with their probabilities, the most likely first."""

    file: Path
    classes: list[tuple[str, float]]


class Decoder(torch.utils.data.Dataset[Decoded]):
    """Reads and preprocesses images by number."""

    def __init__(self, files: Sequence[Path], transform: v2.Transform) -> None:
        self.files, self.transform = files, transform

    def __getitem__(self, numbers: Sequence[int]) -> Decoded:
        """The readable images, and the problems with the others."""
        images: dict[int, Tensor] = {}
        unreadable: list[tuple[int, str]] = []
        for number in numbers:
            try:
                images[number] = self.transform(read_rgb(str(self.files[number])))
            except ValueError as error:
                unreadable.append((number, f"cannot be read as an image: {error}"))
        # One tensor: each tensor from another process takes a file descriptor.
        return Decoded(torch.stack([*images.values()]) if images else torch.empty(0), [*images], unreadable)


@torch.no_grad()
def classify(trained: Trained, files: Sequence[Path], track: Track) -> tuple[list[Prediction], list[tuple[Path, str]]]:
    """The predictions for all images that can be read, and (file, problem) of the others.

    Raises:
        ValueError: if no image can be read, or the network's output is not finite.
    """
    predictions: list[Prediction] = []
    unreadable: list[tuple[Path, str]] = []
    for decoded in track(_decoded(trained, files), -(-len(files) // _BATCH), "predicting"):
        unreadable += [(files[number], problem) for number, problem in decoded.unreadable]
        if not decoded.numbers:
            continue
        images = decoded.images.to(trained.device, memory_format=torch.channels_last)
        logits = class_logits(trained.network(images)).float().cpu()
        if not logits.isfinite().all():
            number = decoded.numbers[int((~logits.isfinite()).any(1).nonzero()[0])]
            raise ValueError(f"{files[number]}: the network's output is not finite: its weights are damaged")
        ranked = most_likely(logits, trained.classes)
        predictions += [Prediction(files[k], pairs) for k, pairs in zip(decoded.numbers, ranked, strict=True)]
    if not predictions:
        file, problem = unreadable[0]
        raise ValueError(f"none of the {len(files)} images can be read: {file} {problem}")
    return predictions, unreadable


def most_likely(logits: Tensor, classes: Sequence[str]) -> list[list[tuple[str, float]]]:
    """The most likely classes of each image with their probabilities; numbers if the classes have no names."""
    names = classes or tuple(map(str, range(logits.shape[1])))
    values, numbers = logits.softmax(1).topk(min(TOP, logits.shape[1]))
    rows = zip(numbers.tolist(), values.tolist(), strict=True)
    return [[(names[k], value) for k, value in zip(*row, strict=True)] for row in rows]


def _decoded(trained: Trained, files: Sequence[Path]) -> Iterator[Decoded]:
    on_gpu = trained.device.type == "cuda"
    workers = default_workers(len(files), 1) if on_gpu else 0  # on a CPU they would take cores from the network
    requests = torch.arange(len(files)).split(_BATCH)
    decoder = Decoder(files, trained.preprocessing.transform())
    return decode((request.tolist() for request in requests), decoder, workers, on_gpu)


def write_predictions(predictions: Sequence[Prediction], out: Path) -> None:
    """Write predictions.json, one entry per image, and predictions.csv, one row per image and class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file_name", "rank", "class", "probability"])
    entries = []
    for file, classes in predictions:
        for rank, (name, probability) in enumerate(classes, start=1):
            writer.writerow([file, rank, name, f"{probability:.6g}"])
        listed = [{"class": name, "probability": probability} for name, probability in classes]
        entries.append({"file_name": str(file), "predictions": listed})
    write_atomically(out / "predictions.csv", text.getvalue())
    write_atomically(out / "predictions.json", strict_json(entries))


def table(predictions: Sequence[Prediction]) -> list[str]:
    """The first predictions as lines for a terminal."""
    rows = [
        [str(file), *(f"{name} {100 * probability:.1f} %" for name, probability in classes[:_SHOWN_CLASSES])]
        for file, classes in predictions[:_SHOWN]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    left_out = len(predictions) - len(rows)
    return [*lines, *([f"... and {left_out} more"] if left_out else [])]
