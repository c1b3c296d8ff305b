"""Detections in your own images: pictures with boxes, and a JSON file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from bam.data.files.decoding import read_rgb
from bam.data.files.listing import check_not_overwritten
from bam.data.interface import Track, untracked
from bam.explanation import save_png
from bam.files import strict_json, write_atomically
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.metrics import Detections
from bam.tasks.detection.pictures import draw
from bam.tasks.task import Trained


@torch.no_grad()
def find(model: DetectorModule, image: Tensor) -> Detections:
    """Run a detector in eval mode on one image, float32 (3, H, W) from 0 to 1; the detections are on the CPU."""
    (output,) = model([image])
    return Detections.of(output)


def predict(
    trained: Trained, files: Sequence[Path], out: Path, score: float, track: Track = untracked, *, turn: bool = False
) -> tuple[list[tuple[Path, Detections]], list[tuple[Path, str]]]:
    """Write a PNG with boxes for each image, and predictions.json: file, class, score and box (xywh) of each detection.

    Args:
        trained: a detector; its classes start with label 1.
        files: the images.
        out: the output folder.
        score: minimum score of a detection.
        track: may show progress.
        turn: read photographs as EXIF turns them.

    Returns: each file with its detections, and each unreadable file with its problem.

    Raises:
        ValueError: if `score` is outside 0 to 1, no image can be read, or a picture would overwrite another picture or
            one of the images.
    """
    if not 0 <= score <= 1:
        raise ValueError(f"score must be from 0 to 1, got {score}")
    results: list[tuple[Path, Detections]] = []
    unreadable: list[tuple[Path, str]] = []
    pairs = list(zip(files, _picture_paths(files, out), strict=True))
    for file, picture in track(pairs, len(pairs), "predicting"):
        try:
            pixels = pil_to_tensor(read_rgb(str(file), turn=turn))
        except ValueError as error:
            unreadable.append((file, f"cannot be read as an image: {error}"))
            continue
        candidates = find(cast(DetectorModule, trained.network), pixels.to(trained.device).float() / 255)
        kept = candidates.scores >= score
        detections = Detections(candidates.boxes[kept], candidates.scores[kept], candidates.labels[kept])
        save_png(draw(pixels, detections, trained.classes), picture)
        results.append((file, detections))
    if not results:
        raise ValueError(f"none of the {len(files)} images can be read: {unreadable[0][0]} {unreadable[0][1]}")
    rows = [row for file, detections in results for row in _rows(file, detections, trained.classes)]
    write_atomically(out / "predictions.json", strict_json(rows))
    return results, unreadable


def _rows(file: Path, detections: Detections, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    columns = (detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist())
    for (x1, y1, x2, y2), value, label in zip(*columns, strict=True):
        box = [x1, y1, x2 - x1, y2 - y1]
        yield {"file_name": str(file), "category": classes[label - 1], "score": value, "bbox": box}


def _picture_paths(files: Sequence[Path], out: Path) -> list[Path]:
    """The picture to write for each file; raises ValueError if one would overwrite another or one of the files."""
    pictures = [out / f"{file.stem}.png" for file in files]
    duplicate = next((pair for pair in zip(files, pictures, strict=True) if pictures.count(pair[1]) > 1), None)
    if duplicate is not None:
        file, picture = duplicate
        raise ValueError(f"several images would be written to {picture}: {file} and another; rename one")
    check_not_overwritten(files, pictures)
    return pictures
