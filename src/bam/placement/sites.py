"""Sites, and the table that says what attention would cost at each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex, overload

import torch
from torch import nn

from bam.attention import AttentionSpec, attention_factory
from bam.costs import cost, format_count, latency_ms
from bam.dryrun import Image


@dataclass(frozen=True)
class Site:
    """A module whose output (or input, with `before`) is a feature map that an attention module may refine."""

    name: str
    channels: int
    height: int
    width: int
    stride: int = 0  #: of the map: how many pixels of the image lie between two of its places
    feeds: str = ""  #: the module or function that takes the map first
    before: bool = False  #: the map is the module's first argument, not its output
    axes: str = "NCHW"  #: of the map; or "NHWC"

    @property
    def label(self) -> str:
        """What selects this site: "layer1", or "before layer2"."""
        return f"before {self.name}" if self.before else self.name


class Sites(tuple[Site, ...]):
    """Sites in forward order. Slicing gives Sites; printing shows what a BAM at each would cost."""

    image: Image | None = None  #: what the forward pass that found them was given
    notes: tuple[str, ...] = ()  #: down-samplings before which no module carries all of the flow, with the reasons

    @overload
    def __getitem__(self, key: SupportsIndex) -> Site: ...
    @overload
    def __getitem__(self, key: slice) -> "Sites": ...
    def __getitem__(self, key):
        """One site, or Sites for a slice."""
        found = super().__getitem__(key)
        if not isinstance(key, slice):
            return found
        part = Sites(found)
        part.image = self.image
        return part

    def table(self, attention: str | AttentionSpec | Callable[..., nn.Module] = "bam", *, latency: bool = False) -> str:
        """A table of the sites with the parameters and MACs that `attention` adds at each, see `bam.attach`.

        With `latency` also the milliseconds, measured here, of its forward pass for one image (fp32, eval mode).
        """
        rows = [["site", "channels", "H x W", "stride", "feeds", "+params", "+MACs"]]
        params = macs = 0
        if isinstance(attention, str):
            attention = AttentionSpec.parse(attention)
        build = attention.build if isinstance(attention, AttentionSpec) else attention_factory(attention)
        modules = [build(site.channels).eval() for site in self]
        for site, module in zip(self, modules, strict=True):
            added = cost(module, (site.channels, site.height, site.width))
            params, macs = params + added.params, macs + added.macs
            where = [site.label, str(site.channels), f"{site.height} x {site.width}", str(site.stride), site.feeds]
            rows.append([*where, f"{added.params:,}", format_count(added.macs)])
        rows.append(["total", "", "", "", "", f"{params:,}", format_count(macs)])
        if latency:
            times = self._latency(modules)
            for row, cell in zip(rows, ["+ms", *times, sum(times)], strict=True):
                row.append(cell if isinstance(cell, str) else f"{cell:.2f} ms")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        to_the_left = [header in ("site", "feeds") for header in rows[0]]
        lines = []
        for row in rows:
            cells = zip(row, widths, to_the_left, strict=True)
            lines.append("  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in cells))
        return "\n".join([*(line.rstrip() for line in lines), *(f"note: {note}" for note in self.notes)])

    def _latency(self, modules: list[nn.Module]) -> list[float]:
        calls = {}
        for site, module in zip(self, modules, strict=True):
            features = torch.randn(1, site.channels, site.height, site.width)
            calls[site.label] = lambda _, module=module, features=features: module(features)
        return list(latency_ms(calls, torch.empty(0)).values())

    def __str__(self) -> str:
        return self.table()
