"""Where attention goes: the feature maps just before each down-sampling, found by tracing one forward pass."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, overload

from torch import nn

from bam.attention import BAM
from bam.costs import cost, format_count
from bam.dryrun import Image, image_shape
from bam.flow import Flow, Node


@dataclass(frozen=True)
class Site:
    """A module whose output, (N, channels, height, width), an attention module may refine."""

    name: str
    channels: int
    height: int
    width: int
    feeds: str = ""  #: the module or function that takes this output first


class Sites(tuple[Site, ...]):
    """Sites in forward order. Slicing gives Sites; printing shows what a BAM at each would cost."""

    notes: tuple[str, ...] = ()  #: down-samplings before which no module can carry attention, with the reasons

    @overload
    def __getitem__(self, key: SupportsIndex) -> Site: ...
    @overload
    def __getitem__(self, key: slice) -> "Sites": ...
    def __getitem__(self, key):
        """One site, or Sites for a slice."""
        found = super().__getitem__(key)
        return Sites(found) if isinstance(key, slice) else found

    def table(self, attention: Callable[..., nn.Module] = BAM) -> str:
        """A table of the sites with the parameters and MACs that `attention(channels)` adds at each."""
        rows = [("site", "channels", "H x W", "feeds", "+params", "+MACs")]
        params = macs = 0
        for site in self:
            added = cost(attention(site.channels), (site.channels, site.height, site.width))
            params, macs = params + added.params, macs + added.macs
            where = (site.name, str(site.channels), f"{site.height} x {site.width}", site.feeds)
            rows.append((*where, f"{added.params:,}", format_count(added.macs)))
        rows.append(("total", "", "", "", f"{params:,}", format_count(macs)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = (str.ljust, str.rjust, str.rjust, str.ljust, str.rjust, str.rjust)
        lines = []
        for row in rows:
            cells = (justify(cell, width) for justify, cell, width in zip(sides, row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.table()


def find_bottlenecks(model: nn.Module, image: Image | None = None, *, keep: int = 3) -> Sites:
    """Find the sites just before each down-sampling of `model`, in forward order; the last `keep` of them.

    One forward pass records how tensors flow (`bam.flow`). A site is the output of a module through which all of
    the flow to the deepest feature map passes, followed, with nothing but point-wise layers between, by a map of about
    half the height and width. BAM's paper places three of them (https://arxiv.org/abs/1807.06514, figure 1).

    Args:
        model: any CNN; it is left as it is.
        image: a tensor (N, C, H, W) or a size (a side, (H, W) or (C, H, W)); default: the model's own, or 224 x 224.
        keep: how many sites to keep, counted from the deepest.

    Raises:
        ValueError: if the model has no down-sampling, or none can be located; the message says why.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    flow = Flow(model, image)
    cuts = flow.cuts()
    sites: list[Site | str] = []  # or why there is none
    smallest = float("inf")
    for position, (before, after) in enumerate(zip(cuts, cuts[1:], strict=False)):
        smallest = min(smallest, before.area)
        if before.area > smallest:
            continue
        if _halves(before, after):
            sites.append(_site_before(flow, cuts[: position + 1], after))
        elif before.area > 25 * after.area:
            size = "{} x {} and {} x {}".format(*before.shape[2:], *after.shape[2:])
            sites.append(f"no site between {size}: no single map there carries all of the flow")
    found = Sites(site for site in sites[-keep:] if isinstance(site, Site))
    found.notes = tuple(note for note in sites[-keep:] if isinstance(note, str))
    if not found:
        raise ValueError(_nothing_found(model, image_shape(model, image), found.notes))
    return found


def describe_sites(model: nn.Module, names: Sequence[str], image: Image | None = None) -> Sites:
    """The sites that `names` (of modules) stand for, in forward order, each checked to return one feature map.

    Raises:
        ValueError: for a name that is no module, or a module that is not called once or returns no (N, C, H, W) tensor.
    """
    flow = Flow(model, image)
    known = [name for name, _ in model.named_modules() if name]
    sites = {name: _named_site(flow, name, known) for name in names}
    return Sites(sites[name] for name in flow.returned if name in sites)  # modules are listed as they return


def _halves(before: Node, after: Node) -> bool:
    ratios = [b / a for b, a in zip(before.shape[2:], after.shape[2:], strict=True)]
    return 1.5 < max(ratios) < 5 and min(ratios) >= 1


def _site_before(flow: Flow, cuts: list[Node], after: Node) -> Site | str:
    """The site for the down-sampling from the last of `cuts` to `after`, or the reason why there is none.

    Going back as long as only point-wise operations lie between, the map of the outermost module wins, and of equals
    the last: the end of a stage rather than the expansion inside the next one's first block.
    """
    best, depth, reason = None, 0, f"its input is made by {cuts[-1].op} outside of any module"
    for node in flow.pointwise_back(cuts):
        owners = [name for name in node.owners if name]
        usable = [name for name in owners if len(flow.returned[name]) == 1]
        if owners and not usable:
            reason = f"its input comes from {owners[-1]!r}, which is called {len(flow.returned[owners[-1]])} times"
        for name in usable:
            if best is None or name.count(".") < depth:
                best, depth = _site(name, node), name.count(".")
    if best is not None:
        return best
    size = "{} x {} to {} x {}".format(*cuts[-1].shape[2:], *after.shape[2:])
    return f"no site before the down-sampling {size} ({after.op}): {reason}"


def _named_site(flow: Flow, name: str, known: Sequence[str]) -> Site:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:3]
        raise ValueError(f"the model has no module {name!r}; near misses: {', '.join(map(repr, near))}")
    calls = flow.returned.get(name, [])
    if len(calls) != 1:
        times = f"{len(calls)} times" if calls else "never"
        raise ValueError(f"site {name!r} is called {times} in a forward pass: a site must be called exactly once")
    node = calls[0]
    if node is None or len(node.shape) != 4:
        what = "no single tensor" if node is None else f"a tensor of shape {node.shape}"
        raise ValueError(f"site {name!r} returns {what}: attention needs one feature map (N, C, H, W)")
    return _site(name, node)


def _site(name: str, node: Node) -> Site:
    feeds = next((c for c in node.consumers if not f"{c}.".startswith(f"{name}.")), "")
    return Site(name, node.shape[1], node.shape[2], node.shape[3], feeds)


def _nothing_found(model: nn.Module, shape: tuple[int, ...], notes: Sequence[str]) -> str:
    by_hand = 'name the sites by hand: bam.attach(model, sites=["<module name>", ...])'
    what = f"{type(model).__name__} on an image {tuple(shape[1:])}"
    if notes:
        return f"{what}: no down-sampling could be given a site; {by_hand}\n" + "\n".join(f"  {n}" for n in notes)
    return (
        f"{what} has no down-sampling of a feature map (N, C, H, W) after its first layer: BAM sits before "
        f"down-samplings. If the image is small, try a larger one; else {by_hand}"
    )
