"""Pictures of detections, and of what attention strengthens."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from bam.surgery import attended
from bam.tasks.detection.detectors import DetectorModule
from bam.tasks.detection.metrics import Detections

_SIDE = 320  #: of panels and of small images, in pixels
_COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#8d5a97", "#3c7a45", "#e07b39", "#5b6770")


def draw(image: Tensor, found: Detections, classes: Sequence[str], score: float = 0.0) -> Tensor:
    """The image with a box for each detection of at least `score`, with its class and, unless it is 1, its score.

    Not torchvision's `draw_bounding_boxes`: without the path of a font its words are too small to read.

    Args:
        image: uint8 (3, H, W); small ones are enlarged by a whole number, so that the words can be read.
        found: boxes in its pixels.
        classes: their names, that of label 1 first.
        score: the least.

    Returns: uint8 (3, H * k, W * k).
    """
    factor = max(1, -(-_SIDE // max(image.shape[1:])))
    canvas = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    kept = found.scores >= score
    labels = found.labels[kept].tolist()
    if not labels:
        return canvas
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    rows = zip((factor * found.boxes[kept]).tolist(), found.scores[kept].tolist(), labels, strict=True)
    for (left, top, right, bottom), value, label in sorted(rows, key=lambda row: row[1]):  # the surest on top
        colour = _COLOURS[label % len(_COLOURS)]
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=3)
        words = classes[label - 1] if value == 1 else f"{classes[label - 1]}: {value:.2f}"
        place = pen.textbbox((left + 4, max(0.0, top - 21)), words, font)
        pen.rectangle((place[0] - 4, place[1] - 3, place[2] + 4, place[3] + 3), fill=colour)
        pen.text((left + 4, max(0.0, top - 21)), words, "white", font)
    return pil_to_tensor(picture)


@torch.no_grad()
def strengthened(model: DetectorModule, image: Tensor) -> dict[str, Tensor]:
    """How much attention strengthens each place of an image: ||F'|| / ||F|| - 1 over the channels, at each site.

    For BAM that is its map M(F) as the channels weigh it, from 0 to 1; 0 everywhere where it is the identity.

    Args:
        model: a detector with attention, in eval mode.
        image: float32 (3, H, W) from 0 to 1.

    Returns: site -> float32 (h, w) that covers the image, however the detector has padded it.
    """
    gains: dict[str, Tensor] = {}
    covered: dict[str, float] = {}

    def watch(site: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: object, given: tuple[Tensor, ...], refined: Tensor) -> None:
            before, after = given[0][0].float().norm(dim=0), refined[0].float().norm(dim=0)
            gains[site] = torch.where(before > 0, after / before.clamp(min=1e-12) - 1, 0.0).cpu()

        return attended(model)[site].register_forward_hook(hook)

    def note_size(module: object, given: object, found: tuple) -> None:
        (images, _) = found
        (height, width), padded = images.image_sizes[0], images.tensors.shape[-2:]
        covered.update(height=height / padded[0], width=width / padded[1])

    handles = [watch(site) for site in attended(model)] + [model.transform.register_forward_hook(note_size)]
    try:
        model([image])
    finally:
        for handle in handles:
            handle.remove()
    return {site: _top_left(gain, covered["height"], covered["width"]) for site, gain in gains.items()}


def _top_left(gain: Tensor, height: float, width: float) -> Tensor:
    """The part of a map (h, w) that is not padding: these shares of its height and width, one place at least."""
    return gain[: max(1, round(gain.shape[0] * height)), : max(1, round(gain.shape[1] * width))]


def overlay(image: Tensor, gain: Tensor) -> Tensor:
    """A map (h, w) in colours over an image, uint8 (3, H, W): dark where it is least, yellow where it is greatest."""
    from matplotlib import colormaps

    low, high = gain.min(), gain.max()
    scaled = (gain - low) / (high - low) if high > low else torch.zeros_like(gain)
    large = F.interpolate(scaled[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    colours = torch.from_numpy(colormaps["inferno"](large.clamp(0, 1).numpy())[..., :3]).permute(2, 0, 1)
    grey = image.float().mean(0) / 255
    return (255 * (0.35 * grey + 0.65 * colours)).clamp(0, 255).round().to(torch.uint8)


def side_by_side(panels: Mapping[str, Tensor]) -> Image.Image:
    """Images uint8 (3, H, W) of one height side by side, each under its title."""
    pictures = {title: _scaled(Image.fromarray(panel.permute(1, 2, 0).numpy())) for title, panel in panels.items()}
    header, gap = 22, 6
    width = sum(picture.width + gap for picture in pictures.values()) - gap
    height = max(picture.height for picture in pictures.values())
    page = Image.new("RGB", (width, header + height), "white")
    pen, font, left = ImageDraw.Draw(page), ImageFont.load_default(14), 0
    for title, picture in pictures.items():
        pen.text((left + 2, 2), title, "#1c2329", font)
        page.paste(picture, (left, header))
        left += picture.width + gap
    return page


def _scaled(picture: Image.Image) -> Image.Image:
    return picture.resize((round(picture.width * _SIDE / picture.height), _SIDE))


def save_png(picture: Image.Image | Tensor, path: Path) -> None:
    """Write a picture, or an image uint8 (3, H, W), as PNG."""
    if isinstance(picture, Tensor):
        picture = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG", optimize=True)
