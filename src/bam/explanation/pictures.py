"""Pictures: maps over images, panels side by side, PNG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PANEL_SIDE = 320  #: height of a panel in pixels

Arrow = tuple[float, float, float, float]  #: from (y, x) to (y, x), as shares of the image's height and width


def overlay(image: Tensor, gain: Tensor) -> Tensor:
    """A map (h, w) in colours over an image, uint8 (3, H, W): dark for the lowest value, yellow for the highest."""
    from matplotlib import colormaps

    low, high = gain.min(), gain.max()
    scaled = (gain - low) / (high - low) if high > low else torch.zeros_like(gain)
    resized = F.interpolate(scaled[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    colours = torch.from_numpy(colormaps["inferno"](resized.clamp(0, 1).numpy())[..., :3]).permute(2, 0, 1)
    grey = image.float().mean(0) / 255
    return (255 * (0.35 * grey + 0.65 * colours)).clamp(0, 255).round().to(torch.uint8)


def side_by_side(panels: Mapping[str, Tensor]) -> Image.Image:
    """Images uint8 (3, H, W) of equal height side by side, each below its title."""
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


def hierarchy(
    pixels: Tensor,
    maps: Mapping[str, tuple[str, Tensor]],
    *,
    plain: bool = True,
    arrows: Mapping[str, Sequence[Arrow]] | None = None,
) -> Image.Image:
    """An image uint8 (3, H, W) beside each site's map over it, with the map's colour bar, kind and range.

    Args:
        pixels: the image.
        maps: site -> (kind, e.g. "gain", and map (h, w)).
        plain: also show the image on its own.
        arrows: site -> arrows to draw over its map.
    """
    from matplotlib import colormaps

    panels = ({"image": pixels} if plain else {}) | {
        site: overlay(pixels, values) for site, (_, values) in maps.items()
    }
    page, footer = side_by_side(panels), 40
    whole = Image.new("RGB", (page.width, page.height + footer), "white")
    whole.paste(page, (0, 0))
    width = (page.width - 6 * (len(panels) - 1)) // len(panels)
    colours = (255 * colormaps["inferno"](np.linspace(0, 1, width))[None, :, :3]).astype(np.uint8)
    bar, pen, font = Image.fromarray(colours).resize((width, 10)), ImageDraw.Draw(whole), ImageFont.load_default(13)
    for number, (site, (kind, values)) in enumerate(maps.items(), start=len(panels) - len(maps)):
        left = number * (width + 6)
        _draw_arrows(whole, (arrows or {}).get(site, ()), (left, page.height - PANEL_SIDE, left + width, page.height))
        whole.paste(bar, (left, page.height + 5))
        low, high = f"{values.min():.3f}", f"{values.max():.3f}"
        for text, share in ((low, 0.0), (kind, 0.5), (high, 1.0)):
            pen.text((left + share * (width - pen.textlength(text, font)), page.height + 18), text, "#1c2329", font)
    return whole


def _draw_arrows(page: Image.Image, arrows: Sequence[Arrow], box: tuple[int, int, int, int]) -> None:
    """Draw lines with a dot at their targets over a panel of the page, and nothing outside the panel."""
    panel = page.crop(box)
    pen = ImageDraw.Draw(panel)
    for y0, x0, y1, x1 in arrows:
        if not math.isfinite(y1) or not math.isfinite(x1):
            continue
        # Long lines are cut outside the panel, for Pillow visits each of their pixels.
        part = min(1, 3 / max(abs(y1 - y0), abs(x1 - x0), 1))
        x, y = (x0 + part * (x1 - x0)) * panel.width, (y0 + part * (y1 - y0)) * panel.height
        pen.line([(x0 * panel.width, y0 * panel.height), (x, y)], "white", 1)
        pen.ellipse([x - 2, y - 2, x + 2, y + 2], "white")
    page.paste(panel, box[:2])


def _scaled(picture: Image.Image) -> Image.Image:
    return picture.resize((round(picture.width * PANEL_SIDE / picture.height), PANEL_SIDE))


def save_png(picture: Image.Image | Tensor, to: Path | BinaryIO) -> None:
    """Write a picture, or an image uint8 (3, H, W), as PNG to a stream or path; missing folders are created."""
    if isinstance(picture, Tensor):
        picture = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
    if isinstance(to, Path):
        to.parent.mkdir(parents=True, exist_ok=True)
    picture.save(to, format="PNG", optimize=True)
