"""Example pictures of a comparison: each network's detections on the same images, beside its attention."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bam.data import BoxDataset
from bam.explanation import overlay, save_png, side_by_side
from bam.explanation.views import GAIN
from bam.surgery import attended
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.metrics import Detections
from bam.tasks.detection.pictures import draw, views_on_image
from bam.tasks.detection.predict import find

_COUNT = 6  #: number of images
SCORE = 0.3  #: minimum score of a drawn detection


def write_gallery(models: Mapping[str, DetectorModule], test: BoxDataset, folder: Path) -> list[dict[str, str]]:
    """Write a PNG for a few test images, with the objects and each network's detections and attention.

    Args:
        models: variant name -> detector in eval mode.
        test: the images; the pictures are spread evenly over those with objects.
        folder: where the pictures are written.

    Returns: file name and caption of each picture.
    """
    with_objects = torch.tensor(
        [k for k, objects in enumerate(test.objects) if (~objects.ignored).any()], dtype=torch.int64
    )
    if not len(with_objects):
        return []
    indices = torch.linspace(0, len(with_objects) - 1, min(_COUNT, len(with_objects))).round().long()
    shown = test.subset(with_objects[indices])
    batches = shown.batches(1, next(next(iter(models.values())).parameters()).device)
    pictures = []
    for (image, *_), targets in batches.test():
        number = targets[0]["number"]
        panels, sites = _panels(models, image, shown, number)
        name = f"{shown.image_ids[number]}.png"
        save_png(side_by_side(panels), folder / name)
        pictures.append({"file": name, "caption": f"image {shown.file_names[number]}{sites}"})
    return pictures


def _panels(
    models: Mapping[str, DetectorModule], image: Tensor, shown: BoxDataset, number: int
) -> tuple[dict[str, Tensor], str]:
    """Panels by title, and the caption text that names the site of each attention map."""
    pixels = (255 * image).round().to(torch.uint8).cpu()
    objects = shown.objects[number]
    counted = ~objects.ignored
    truth = Detections(objects.boxes[counted], torch.ones(int(counted.sum())), objects.labels[counted])
    panels = {"annotated": draw(pixels, truth, shown.classes)}
    sites = []
    for name, model in models.items():
        detections, views = views_on_image(model, image) if attended(model) else (find(model, image), [])
        panels[name] = draw(pixels, detections, shown.classes, SCORE)
        if views:
            gains = {view.site: view.maps[GAIN] for view in views}
            site = max(gains, key=lambda site: float(gains[site].std(correction=0)))
            low, high = float(gains[site].min()), float(gains[site].max())
            panels[f"{name}: attention"] = overlay(pixels, gains[site])
            sites.append(f"{name} at {site}, {low:.2f} (dark) to {high:.2f} (yellow)")
    return panels, f": {'; '.join(sites)}" if sites else ""
