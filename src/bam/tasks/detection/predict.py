"""Detections in your own images: pictures with boxes, and a JSON file."""

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
    """The detections, on the CPU, of a detector in eval mode in one image, float32 (3, H, W) from 0 to 1."""
    (output,) = model([image])
    return Detections.of(output)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The image files that `paths` name; a folder stands for the images directly inside it.

    Raises:
        FileNotFoundError: for a missing path, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        images = sorted(filter(_is_image, path.iterdir())) if path.is_dir() else [path]
        if not images:
            raise FileNotFoundError(f"the folder {path} holds no images ({', '.join(IMG_EXTENSIONS)})")
        if not path.exists():
            raise FileNotFoundError(f"there is no image {path}")
        files += images
    return files


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMG_EXTENSIONS


def predict(
    model: DetectorModule, files: Sequence[Path], classes: Sequence[str], out: Path, score: float
) -> list[tuple[Path, Detections]]:
    """Write a PNG with boxes for each image, and predictions.json: file, class, score and box (xywh) of each detection.

    Args:
        model: a detector in eval mode.
        files: the images.
        classes: class names, starting with label 1.
        out: the output folder.
        score: minimum score of a detection.

    Returns: each file with its detections.

    Raises:
        ValueError: if `score` is outside 0 to 1, an image cannot be read, or a picture would overwrite another picture
            or one of the images.
    """
    if not 0 <= score <= 1:
        raise ValueError(f"score must be from 0 to 1, got {score}")
    results: list[tuple[Path, Detections]] = []
    rows: list[dict[str, Any]] = []
    for file, picture in zip(files, _picture_paths(files, out), strict=True):
        try:
            pixels = pil_to_tensor(read_rgb(str(file)))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read as an image: {error}") from None
        candidates = find(model, pixels.float() / 255)
        kept = candidates.scores >= score
        detections = Detections(candidates.boxes[kept], candidates.scores[kept], candidates.labels[kept])
        save_png(draw(pixels, detections, classes), picture)
        results.append((file, detections))
        for (x1, y1, x2, y2), value, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"file_name": str(file), "category": classes[label - 1], "score": value, "bbox": box})
    write_atomically(out / "predictions.json", json.dumps(rows, indent=1) + "\n")
    return results


def _picture_paths(files: Sequence[Path], out: Path) -> list[Path]:
    """The picture to write for each file; raises ValueError if one would overwrite another or one of the files."""
    pictures = [out / f"{file.stem}.png" for file in files]
    duplicate = next((pair for pair in zip(files, pictures, strict=True) if pictures.count(pair[1]) > 1), None)
    if duplicate is not None:
        file, picture = duplicate
        raise ValueError(f"several images would be written to {picture}: {file} and another; rename one")
    overwritten = {file.resolve() for file in files} & {picture.resolve() for picture in pictures}
    if overwritten:
        raise ValueError(f"{overwritten.pop()} would be overwritten; choose another --out")
    return pictures
