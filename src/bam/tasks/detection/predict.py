"""Detections in images of one's own: pictures with boxes, and a file of what was found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import pil_to_tensor

from bam.data.files.decoding import read_rgb
from bam.explanation import save_png
from bam.files import write_atomically
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.metrics import Detections
from bam.tasks.detection.pictures import draw


@torch.no_grad()
def find(model: DetectorModule, image: Tensor) -> Detections:
    """What a detector in eval mode finds in an image, float32 (3, H, W) from 0 to 1; on the CPU."""
    (output,) = model([image])
    return Detections.of(output)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The images that `paths` stand for: files, and those directly in folders.

    Raises:
        FileNotFoundError: for a path that is not there, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(filter(_is_image, path.iterdir())) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(f"the folder {path} holds no images ({', '.join(IMG_EXTENSIONS)})")
        if not path.exists():
            raise FileNotFoundError(f"there is no image {path}")
        files += inside
    return files


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMG_EXTENSIONS


def predict(
    model: DetectorModule, files: Sequence[Path], classes: Sequence[str], out: Path, score: float
) -> list[tuple[Path, Detections]]:
    """Write a PNG with boxes for each image, and predictions.json: file, class, score and box (xywh) of each detection.

    Args:
        model: a detector in eval mode.
        files: images.
        classes: their names, that of label 1 first.
        out: the folder for what is written.
        score: the least score of a detection that is drawn and written.

    Raises:
        ValueError: for a score that is no share, an image that cannot be read, or a picture that would take the place
            of another or of one of the images.
    """
    if not 0 <= score <= 1:
        raise ValueError(f"score: from 0 to 1, got {score}")
    names = [f"{file.stem}.png" for file in files]
    twice = next((file for file, name in zip(files, names, strict=True) if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"several images would be drawn into {out / twice.stem}.png: {twice} and another; rename one")
    own = {file.resolve() for file in files} & {(out / name).resolve() for name in names}
    if own:
        raise ValueError(f"{own.pop()} would be drawn over; choose another --out")
    found: list[tuple[Path, Detections]] = []
    rows: list[dict[str, Any]] = []
    for file, name in zip(files, names, strict=True):
        try:
            pixels = pil_to_tensor(read_rgb(str(file)))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read as an image: {error}") from None
        every = find(model, pixels.float() / 255)
        kept = every.scores >= score
        detections = Detections(every.boxes[kept], every.scores[kept], every.labels[kept])
        save_png(draw(pixels, detections, classes), out / name)
        found.append((file, detections))
        for (x1, y1, x2, y2), value, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"file_name": str(file), "category": classes[label - 1], "score": value, "bbox": box})
    write_atomically(out / "predictions.json", json.dumps(rows, indent=1) + "\n")
    return found
