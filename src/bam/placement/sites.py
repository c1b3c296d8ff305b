"""Sites, and a table of the cost of attention at each."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex, overload

import torch
from torch import Tensor, nn

from bam.attention import AttentionSpec, attention_name
from bam.attention.contract import fit, takes_place
from bam.costs import Cost, cost, format_count, latency_ms
from bam.dryrun import Image


class NoSuchSites(ValueError):
    """The network has no sites of the requested kind."""


@dataclass(frozen=True)
class Site:
    """A module whose output (or input, with `before`) is a feature map that an attention module may refine."""

    name: str
    channels: int
    height: int
    width: int
    stride: int = 0  #: of the map: the distance between neighbouring places in image pixels
    feeds: str = ""  #: the module or function that takes the map first
    before: bool = False  #: the map is the module's first argument, not its output
    axes: str = "NCHW"  #: of the map: "NCHW" or "NHWC"

    @property
    def label(self) -> str:
        """The name under which `select_sites` finds this site: "layer1" or "before layer2"."""
        return f"before {self.name}" if self.before else self.name


class Sites(tuple[Site, ...]):
    """Sites in forward order. A slice is again `Sites`. Printing them shows the cost of a BAM at each."""

    image: Image | None = None  #: the input of the forward pass that found them; None for the default
    notes: tuple[str, ...] = ()  #: remarks on down-samplings without a proper site
    #: Label of a site before a convolution -> that layer without weights, which attention may replace.
    convolutions: Mapping[str, nn.Conv2d] = {}

    @overload
    def __getitem__(self, key: SupportsIndex) -> Site: ...
    @overload
    def __getitem__(self, key: slice) -> "Sites": ...
    def __getitem__(self, key: Any) -> Any:
        """One site, or Sites for a slice."""
        selected = super().__getitem__(key)
        if not isinstance(key, slice):
            return selected
        part = Sites(selected)
        part.image, part.convolutions = self.image, self.convolutions
        return part

    def table(self, attention: str | AttentionSpec | Callable[..., nn.Module] = "bam", *, latency: bool = False) -> str:
        """The sites as a text table, with the parameters and MACs that attention adds at each.

        Args:
            attention: a name, an `AttentionSpec` or its text, or a callable `channels -> nn.Module`, see `bam.attach`.
            latency: also measure its forward pass for one image on this machine, in milliseconds (fp32, eval mode).

        Raises:
            ValueError: for an unknown attention, or options that it does not take.
        """
        rows = [["site", "channels", "H x W", "stride", "feeds", "+params", "+MACs"]]
        params = macs = 0
        if isinstance(attention, str):
            attention = AttentionSpec.parse(attention)
        spec = attention if isinstance(attention, AttentionSpec) else AttentionSpec(attention_name(attention))
        build = None if isinstance(attention, AttentionSpec) else attention
        modules = [self._module(site, spec, build) for site in self]
        for site, module in zip(self, modules, strict=True):
            added = _added(module, (site.channels, site.height, site.width))
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

    def _module(self, site: Site, spec: AttentionSpec, build: Callable[..., nn.Module] | None) -> nn.Module:
        """The module that `attach` would insert at `site`."""
        module = spec.fitted(site.height, site.width, build).build(site.channels, build).eval()
        if site.label not in self.convolutions:
            return module
        fit(module, self.convolutions[site.label], before=site.before)
        return _Replacing(module, self.convolutions[site.label]) if takes_place(module) else module

    def _latency(self, modules: list[nn.Module]) -> list[float]:
        calls = {}
        for site, module in zip(self, modules, strict=True):
            features = torch.randn(1, site.channels, site.height, site.width)
            calls[site.label] = lambda _, module=module, features=features: module(features)
            if isinstance(module, _Replacing):
                calls[f"{site.label}: plain"] = lambda _, plain=module.convolution, features=features: plain(features)
        times = latency_ms(calls, torch.empty(0))
        return [times[site.label] - times.get(f"{site.label}: plain", 0.0) for site in self]

    def __str__(self) -> str:
        return self.table()


class _Replacing(nn.Module):
    """Attention together with a copy of the `convolution` that it replaces."""

    def __init__(self, attention: nn.Module, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.attention = attention
        self.convolution = copy.deepcopy(convolution).to_empty(device="cpu")
        self.convolution.reset_parameters()

    def forward(self, features: Tensor) -> Tensor:
        return self.attention(features, weight=self.convolution.weight, bias=self.convolution.bias)


def _added(module: nn.Module, shape: tuple[int, int, int]) -> Cost:
    """The cost that `module` adds to a network, less that of a convolution it replaces."""
    total = cost(module, shape)
    if not isinstance(module, _Replacing):
        return total
    plain = cost(module.convolution, shape)
    return Cost(total.params - plain.params, total.macs - plain.macs)
