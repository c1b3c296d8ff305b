"""Pictures of detections and of the attention inside a detector."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from bam.explanation import record
from bam.explanation.passes import NOTHING_RUNS
from bam.explanation.pictures import PANEL_SIDE
from bam.explanation.views import SiteView, site_views
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.metrics import Detections

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#8d5a97", "#3c7a45", "#e07b39", "#5b6770")


def draw(image: Tensor, detections: Detections, classes: Sequence[str], score: float = 0.0) -> Tensor:
    """Draw the detections that score at least `score`: a box, the class, and the score unless it is 1.

    If the font lacks a character of a name, the number of the class is drawn instead, e.g. "class 3".

    torchvision's `draw_bounding_boxes` would need the path of a font: its default text is too small to read.

    Args:
        image: uint8 (3, H, W); small images are enlarged by a whole number k so that the text is readable.
        detections: boxes in pixels of `image`.
        classes: class names, starting with label 1.
        score: minimum score.

    Returns: uint8 (3, H * k, W * k).
    """
    factor = max(1, -(-PANEL_SIDE // max(image.shape[1:])))
    canvas = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    kept = detections.scores >= score
    labels = detections.labels[kept].tolist()
    if not labels:
        return canvas
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    rows = zip((factor * detections.boxes[kept]).tolist(), detections.scores[kept].tolist(), labels, strict=True)
    for (left, top, right, bottom), value, label in sorted(rows, key=lambda row: row[1]):  # highest score on top
        colour = _COLOURS[label % len(_COLOURS)]
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=3)
        name = classes[label - 1] if _can_draw(font, classes[label - 1]) else f"class {label}"
        text = name if value == 1 else f"{name}: {value:.2f}"
        area = pen.textbbox((left + 4, max(0.0, top - 21)), text, font)
        pen.rectangle((area[0] - 4, area[1] - 3, area[2] + 4, area[3] + 3), fill=colour)
        pen.text((left + 4, max(0.0, top - 21)), text, "white", font)
    return pil_to_tensor(picture)


def _can_draw(font: Font, text: str) -> bool:
    """Whether the font has all characters of a text; missing ones all look the same."""
    missing = bytes(font.getmask("\U0010ffff"))
    return all(bytes(font.getmask(character)) != missing for character in text)


def views_on_image(model: DetectorModule, image: Tensor) -> tuple[Detections, list[SiteView]]:
    """The detections in an image, and the attention at each site.

    Args:
        model: a detector with attention, in eval mode.
        image: float32 (3, H, W) from 0 to 1.

    Returns: the detections, and the maps at each site, cropped to the image: the detector's padding is removed.
    """
    share = (1.0, 1.0)

    def note_size(module: object, images: object, resized: tuple[Any, ...]) -> None:
        nonlocal share
        (batch, _) = resized
        (height, width), padded = batch.image_sizes[0], batch.tensors.shape[-2:]
        share = height / padded[0], width / padded[1]

    handle = model.transform.register_forward_hook(note_size)
    try:
        with record(model) as passes, torch.no_grad():
            (output,) = model([image])
    finally:
        handle.remove()
    if not passes:
        raise ValueError(NOTHING_RUNS)
    return Detections.of(output), site_views(passes[0], 0, share)
