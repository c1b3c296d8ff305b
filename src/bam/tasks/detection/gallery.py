"""What the networks of a comparison find in the same images, beside what attention strengthens there."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bam.data import BoxDataset
from bam.explanation import overlay, save_png, side_by_side
from bam.surgery import attended
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.metrics import Detections
from bam.tasks.detection.pictures import draw, gains_on_image
from bam.tasks.detection.predict import find

_COUNT = 6  #: images
SCORE = 0.3  #: least score of a detection that is drawn


def write_gallery(models: Mapping[str, DetectorModule], test: BoxDataset, folder: Path) -> list[dict[str, str]]:
    """Write a PNG for each of some test images: its objects, the detections of each network, each one's attention.

    Args:
        models: detectors in eval mode, by the names of their variants.
        test: the images; those that are shown lie evenly among those with objects.
        folder: where the pictures go.

    Returns: name of the file and caption of each.
    """
    with_objects = torch.tensor(
        [k for k, objects in enumerate(test.objects) if (~objects.ignored).any()], dtype=torch.int64
    )
    if not len(with_objects):
        return []
    places = torch.linspace(0, len(with_objects) - 1, min(_COUNT, len(with_objects))).round().long()
    shown = test.subset(with_objects[places])
    batches = shown.batches(1, next(next(iter(models.values())).parameters()).device)
    written = []
    for (image, *_), targets in batches.test():
        number = targets[0]["number"]
        panels, sites = _panels(models, image, shown, number)
        name = f"{shown.image_ids[number]}.png"
        save_png(side_by_side(panels), folder / name)
        written.append({"file": name, "caption": f"image {shown.file_names[number]}{sites}"})
    return written


def _panels(
    models: Mapping[str, DetectorModule], image: Tensor, shown: BoxDataset, number: int
) -> tuple[dict[str, Tensor], str]:
    """The panels by their titles, and which site each map is of."""
    pixels = (255 * image).round().to(torch.uint8).cpu()
    objects = shown.objects[number]
    scored = ~objects.ignored
    truth = Detections(objects.boxes[scored], torch.ones(int(scored.sum())), objects.labels[scored])
    panels = {"annotated": draw(pixels, truth, shown.classes)}
    sites = []
    for name, model in models.items():
        panels[name] = draw(pixels, find(model, image), shown.classes, SCORE)
        if attended(model):
            gains = gains_on_image(model, image)
            site = max(gains, key=lambda site: float(gains[site].std(correction=0)))
            low, high = float(gains[site].min()), float(gains[site].max())
            panels[f"{name}: attention"] = overlay(pixels, gains[site])
            sites.append(f"{name} at {site}, {low:.2f} (dark) to {high:.2f} (yellow)")
    return panels, f": {'; '.join(sites)}" if sites else ""
