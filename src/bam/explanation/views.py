"""Attention in one image, as data for pictures and pages."""

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bam.attention.contract import AttentionMaps
from bam.explanation.pictures import Arrow, hierarchy, save_png

SPATIAL, DISPLACEMENT, GAIN, REGIONS = "spatial attention", "displacement", "gain", "regions"
_ARROWS = 10  # per side, at most


@dataclass(frozen=True)
class SiteView:
    """The attention at one site.

    Attributes:
        site: the site's label.
        maps: name -> float32 (h, w), on the CPU: `SPATIAL`, the sigmoid of the spatial logits, if the module has them;
            `DISPLACEMENT`, how many places away values are read, if the module displaces them; `GAIN`, how much
            stronger each place became, for every module; `REGIONS`, the weight of each place for a question.
        channels: the sigmoid of the channel logits, float32 (C,); None if the module has none.
        words: (word, weight) pairs of a question, if the module attends to words.
        arrows: from places to where their values are read, if the module displaces them.
    """

    site: str
    maps: dict[str, Tensor]
    channels: Tensor | None
    words: Sequence[tuple[str, float]] = ()
    arrows: Sequence[Arrow] = ()

    @property
    def shown(self) -> tuple[str, Tensor]:
        """The name and values of the most informative map, which is the first."""
        return next(iter(self.maps.items()))

    def as_plain(self) -> dict[str, Any]:
        """Plain data for the page of `bam.reports.gallery`: maps are base64 bytes, scaled from minimum to maximum."""
        strongest, weakest = self.ranked_channels()
        maps = [{"name": name} | _as_bytes(values) for name, values in self.maps.items()]
        words = [[word, weight] for word, weight in self.words]
        arrows = [[round(share, 4) for share in arrow] for arrow in self.arrows]
        channels = {"strongest": strongest, "weakest": weakest}
        return {"site": self.site, "maps": maps, **channels, "words": words, "arrows": arrows}

    def ranked_channels(self, count: int = 5) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """The strongest and the weakest channels as (number, value) pairs; empty without channel attention."""
        if self.channels is None:
            return [], []
        order = self.channels.argsort(descending=True).tolist()
        pairs = [(number, float(self.channels[number])) for number in order]
        count = min(count, len(pairs) // 2)
        return pairs[:count], pairs[::-1][:count]


@dataclass(frozen=True)
class ImageView:
    """An image, the network's prediction for it, and its attention at every site.

    Attributes:
        name: name of the image.
        pixels: the image as the network saw it, uint8 (3, H, W).
        prediction: (label, score) pairs, best first.
        sites: one view per site, in the network's order.
    """

    name: str
    pixels: Tensor
    prediction: Sequence[tuple[str, float]]
    sites: Sequence[SiteView]

    def picture(self, *sites: SiteView, plain: bool = True) -> Image.Image:
        """The maps of these sites, by default all, over the image; see `hierarchy`."""
        chosen = sites or self.sites
        maps, arrows = {site.site: site.shown for site in chosen}, {site.site: site.arrows for site in chosen}
        return hierarchy(self.pixels, maps, plain=plain, arrows=arrows)

    def as_plain(self) -> dict[str, Any]:
        """Plain data for the page of `bam.reports.gallery`."""
        buffer = io.BytesIO()
        save_png(self.pixels, buffer)
        png = base64.b64encode(buffer.getvalue()).decode()
        prediction = [[label, score] for label, score in self.prediction]
        sites = [site.as_plain() for site in self.sites]
        return {"name": self.name, "png": png, "prediction": prediction, "sites": sites}


def _as_bytes(values: Tensor) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else values * 0
    content = base64.b64encode((255 * scaled).round().to(torch.uint8).numpy().tobytes()).decode()
    return {"height": values.shape[0], "width": values.shape[1], "low": low, "high": high, "values": content}


def site_views(maps: Mapping[str, AttentionMaps], number: int, share: tuple[float, float] = (1, 1)) -> list[SiteView]:
    """The attention at each site for image `number` of a recorded pass.

    Args:
        maps: site -> maps of one pass, see `bam.explanation.record`.
        number: index of the image in its batch.
        share: shares of the padded height and width that the image fills, from the top left.
    """
    views = []
    for site, site_maps in maps.items():
        named = {GAIN: site_maps.gain[number]}
        if site_maps.spatial_logits is not None:
            named = {SPATIAL: site_maps.spatial_logits[number, 0].sigmoid()} | named
        if site_maps.displacement is not None:
            named = {DISPLACEMENT: site_maps.displacement[number].norm(dim=0)} | named
        cropped = {name: _top_left(values.float().cpu(), *share) for name, values in named.items()}
        logits = site_maps.channel_logits
        channels = None if logits is None else logits[number].flatten().sigmoid().float().cpu()
        arrows: list[Arrow] = []
        if site_maps.displacement is not None:
            arrows = _arrows(site_maps.displacement[number], cropped[DISPLACEMENT].shape, cropped[GAIN].shape)
        views.append(SiteView(site, cropped, channels, arrows=arrows))
    return views


def _arrows(displacement: Tensor, size: Sequence[int], unit: Sequence[int]) -> list[Arrow]:
    """Arrows from a grid of places to where they read.

    Args:
        displacement: (2, H, W), in places of a map of size `unit`.
        size: height and width of the part that shows the image.
        unit: height and width of the map that the values are read from.
    """
    rows, columns = (torch.linspace(0, side - 1, min(side, _ARROWS)).round().long().tolist() for side in size)
    arrows = []
    for row, column in itertools.product(rows, columns):
        y, x = (row + 0.5) / size[0], (column + 0.5) / size[1]
        down, right = displacement[:, row, column].tolist()
        arrows.append((y, x, y + down / unit[0], x + right / unit[1]))
    return arrows


def _top_left(values: Tensor, height: float, width: float) -> Tensor:
    """Crop a map (h, w) to these shares of its height and width, at least one place each."""
    return values[: max(1, round(values.shape[0] * height)), : max(1, round(values.shape[1] * width))]
