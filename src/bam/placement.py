"""Where attention goes: the feature maps just before each down-sampling, found by tracing one forward pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, overload

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bam.attention import BAM
from bam.costs import cost, format_count
from bam.dryrun import Image, dry_run, image_shape


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

    notes: tuple[str, ...] = ()  #: down-samplings before which no module can carry attention, with the reason

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

    One forward pass (see `bam.dryrun`) records how tensors flow. A site is the output of a module through which all of
    the flow to the deepest feature map passes, followed, with nothing but point-wise layers between, by a map of about
    half the height and width. BAM's paper places three of them (https://arxiv.org/abs/1807.06514, figure 1).

    Args:
        model: any CNN; it is left as it is.
        image: a tensor (N, C, H, W) or a size (a side, (H, W) or (C, H, W)); default: the model's own, or 224 x 224.
        keep: how many sites to keep, counted from the deepest.

    Raises:
        ValueError: if the model has no down-sampling, or none can be located; the message says why.
    """
    trace = _Trace(model)
    trace.run(image)
    cuts = trace.cuts()
    sites: list[Site | None] = []
    notes: list[str] = []
    smallest = float("inf")
    for position, (before, after) in enumerate(zip(cuts, cuts[1:], strict=False)):
        smallest = min(smallest, before.area)
        if before.area > smallest or not _halves(before.shape, after.shape):
            continue
        site, reason = trace.site(cuts[: position + 1])
        sites.append(site)
        if site is None:
            size = "{} x {} to {} x {}".format(*before.shape[2:], *after.shape[2:])
            notes.append(f"no site before the down-sampling {size} ({after.op}): {reason}")
    located = [site for site in sites[-keep:] if site is not None]
    if not located:
        raise ValueError(_nothing_found(model, image_shape(model, image), notes))
    found = Sites(located)
    found.notes = tuple(notes)
    return found


def describe_sites(model: nn.Module, names: Sequence[str], image: Image | None = None) -> Sites:
    """The sites that `names` (of modules) stand for, in forward order, each checked to return one feature map.

    Raises:
        ValueError: for a name that is no module, or a module that is not called once or returns no (N, C, H, W) tensor.
    """
    trace = _Trace(model)
    trace.run(image)
    sites = {name: trace.named_site(name) for name in names}
    return Sites(sites[name] for name in trace.returned if name in sites)  # modules are listed as they return


def _halves(before: Sequence[int], after: Sequence[int]) -> bool:
    ratios = [b / a for b, a in zip(before[2:], after[2:], strict=True)]
    return 1.5 < max(ratios) < 5 and min(ratios) >= 1


def _nothing_found(model: nn.Module, shape: tuple[int, ...], notes: Sequence[str]) -> str:
    by_hand = 'name the sites by hand: bam.attach(model, sites=["<module name>", ...])'
    what = f"{type(model).__name__} on an image {tuple(shape[1:])}"
    if notes:
        return f"{what}: no down-sampling could be given a site; {by_hand}\n" + "\n".join(f"  {n}" for n in notes)
    return (
        f"{what} has no down-sampling of a feature map (N, C, H, W) after its first layer: BAM sits before "
        f"down-samplings. If the image is small, try a larger one; else {by_hand}"
    )


@dataclass(eq=False)
class _Node:
    """One tensor that depends on the image, as it is at one time (an in-place operation makes a new node)."""

    time: int
    shape: tuple[int, ...]
    op: str
    sources: list["_Node"]
    mixes: bool  #: its operation looks at neighbouring places (a convolution larger than 1 x 1, a pooling)
    foreign: bool  #: its axes have been permuted: not (N, C, H, W)
    owners: list[str] = field(default_factory=list)  #: modules that returned it
    consumers: list[str] = field(default_factory=list)  #: modules and functions that took it, in order

    @property
    def area(self) -> int:
        return self.shape[2] * self.shape[3]

    @property
    def is_map(self) -> bool:
        return len(self.shape) == 4 and not self.foreign and self.area > 1


class _Trace(TorchFunctionMode):
    """The flow of tensors through one forward pass, and which modules returned which of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.nodes: list[_Node] = []
        self.current: dict[int, _Node] = {}  # id of a tensor -> its latest node
        self.kept: list[Tensor] = []  # keeps the ids unique while the trace runs
        self.returned: dict[str, list[_Node | None]] = {}  # module -> what each of its calls returned

    def run(self, image: Image | None) -> None:
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave(name), with_kwargs=True))
        try:
            with self:
                dry_run(self.model, image)
        finally:
            for handle in handles:
                handle.remove()
            self.kept.clear()

    def _enter(self, name: str) -> Callable:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if name == "":  # the model itself: its input is the image (and a second attempt starts afresh)
                for earlier in (self.nodes, self.current, self.returned):
                    earlier.clear()
                for tensor in _tensors((args, kwargs)):
                    self._record(tensor, "the image", [], False, False)
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self.current:
                    self.current[id(tensor)].consumers.append(name)

        return hook

    def _leave(self, name: str) -> Callable:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and id(output) not in self.current:  # made by something the trace cannot see
                sources = self._sources((args, kwargs))
                if sources:
                    self._record(output, type(module).__name__, sources, True, False)
            node = self.current.get(id(output)) if isinstance(output, Tensor) else None
            self.returned.setdefault(name, []).append(node)
            if node is not None:
                node.owners.append(name)

        return hook

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sources = self._sources((args, kwargs))
        output = func(*args, **kwargs)
        made = _tensors(output)
        if not (sources and made):
            return output
        op = getattr(func, "__name__", str(func))
        for source in sources:
            source.consumers.append(f"{op}()")
        foreign = any(source.foreign for source in sources)
        if op in ("permute", "transpose", "movedim", "swapaxes", "moveaxis") and len(sources[0].shape) == 4:
            foreign = not foreign
        for tensor in made:
            self._record(tensor, f"{op}()", sources, _mixes_places(op, args, kwargs), foreign)
        return output

    def _sources(self, values: Any) -> list[_Node]:
        return [self.current[id(t)] for t in _tensors(values) if id(t) in self.current]

    def _record(self, tensor: Tensor, op: str, sources: list[_Node], mixes: bool, foreign: bool) -> None:
        node = _Node(len(self.nodes), tuple(tensor.shape), op, sources, mixes, foreign)
        self.nodes.append(node)
        self.kept.append(tensor)
        self.current[id(tensor)] = node

    def cuts(self) -> list[_Node]:
        """The feature maps through which all of the flow to the last, smallest feature map passes, in order."""
        maps = [node for node in self.nodes if node.is_map]
        if not maps:
            return []
        smallest = min(node.area for node in maps)
        target = [node for node in maps if node.area == smallest][-1]
        flow, pending = {target.time}, [target]
        while pending:
            for source in pending.pop().sources:
                if source.time not in flow:
                    flow.add(source.time)
                    pending.append(source)
        cuts, in_use = [], 0  # in_use: the latest time at which anything older than the node is still read
        last_use = {source.time: node.time for node in self.nodes if node.time in flow for source in node.sources}
        for node in self.nodes:
            if node.time not in flow:
                continue
            if in_use <= node.time and node.is_map and node.sources:  # the image itself is no cut
                cuts.append(node)
            in_use = max(in_use, last_use.get(node.time, 0))
        return cuts

    def site(self, cuts: list[_Node]) -> tuple[Site | None, str]:
        """The site for a down-sampling of the last of `cuts`, or None and the reason why there is none.

        Going back from it as long as only point-wise operations lie between, the map of the outermost module wins, and
        of equals the last: the end of a stage rather than the expansion inside the next one's first block.
        """
        best, depth, reason = None, 0, f"its input is made by {cuts[-1].op} outside of any module"
        for node in self._pointwise_back(cuts):
            owners = [name for name in node.owners if name]
            usable = [name for name in owners if len(self.returned[name]) == 1]
            if owners and not usable:
                reason = f"its input comes from {owners[-1]!r}, which is called {len(self.returned[owners[-1]])} times"
            for name in sorted(usable, key=lambda owner: owner.count(".")):
                if best is None or name.count(".") < depth:
                    best, depth = self._site(name, node), name.count(".")
        return best, reason

    def _pointwise_back(self, cuts: list[_Node]) -> Iterator[_Node]:
        last = cuts[-1]
        for k in range(len(cuts) - 1, -1, -1):
            if cuts[k].shape[2:] != last.shape[2:]:
                return
            yield cuts[k]
            start = cuts[k - 1].time if k else -1
            if any(node.mixes for node in self.nodes[start + 1 : cuts[k].time + 1]):
                return

    def named_site(self, name: str) -> Site:
        known = dict(self.model.named_modules())
        if name not in known or not name:
            raise ValueError(unknown_site(name, [n for n in known if n]))
        calls = self.returned.get(name, [])
        if len(calls) != 1:
            times = "never" if not calls else f"{len(calls)} times"
            raise ValueError(f"site {name!r} is called {times} in a forward pass: a site must be called exactly once")
        node = calls[0]
        if node is None or len(node.shape) != 4:
            what = "no single tensor" if node is None else f"a tensor of shape {node.shape}"
            raise ValueError(f"site {name!r} returns {what}: attention needs one feature map (N, C, H, W)")
        return self._site(name, node)

    @staticmethod
    def _site(name: str, node: _Node) -> Site:
        feeds = next((c for c in node.consumers if not f"{c}.".startswith(f"{name}.")), "")
        return Site(name, node.shape[1], node.shape[2], node.shape[3], feeds)


def unknown_site(name: str, known: Sequence[str]) -> str:
    """The message for a site name that is no module: with the nearest valid names."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or list(known)[:3]
    return f"the model has no module {name!r}; near misses: {', '.join(map(repr, near))}"


def _mixes_places(op: str, args: Any, kwargs: Any) -> bool:
    if "conv" in op:
        weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
        return not isinstance(weight, Tensor) or any(k > 1 for k in weight.shape[2:])
    return "pool" in op or op == "interpolate"


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
