"""Select sites by name, pattern, position or stride; every block, the bottlenecks, convolutions or the input."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from bam.dryrun import Image
from bam.placement.blocks import find_blocks
from bam.placement.bottlenecks import find_bottlenecks, site_at, sites_at_input
from bam.placement.flow import Flow, trace_for
from bam.placement.sites import NoSuchSites, Site, Sites

_BEFORE = "before "
_STRIDE = "stride "
EVERY_BLOCK = "every block"
BOTTLENECKS = "bottlenecks"
INPUT = "input"
_CONVOLUTIONS = "3x3 convolutions of "
_LAST = "the last stage"


Wanted = str | int | Site


def select_sites(model: nn.Module, wanted: Wanted | Sequence[Wanted], image: Image | None = None) -> Sites:
    """Select sites, in forward order, and check that each is one feature map.

    Each entry of `wanted` is one of these:
        a name: "layer1", the output of that module; "before layer2", its first argument;
        a pattern: "layer?.*", all matching modules that return a feature map; `*` does not match a dot;
        a position: 0 or -1, in `find_bottlenecks(model, image)`;
        a stride: "stride 8", the bottlenecks whose map has an eighth of the image's height and width;
        "bottlenecks": those of `find_bottlenecks(model, image)`;
        "every block": the residual branch of every block, see `find_blocks`;
        "3x3 convolutions of the last stage", or "... of stride 16": the inputs of the 3x3 convolutions whose output
            has the largest stride, or the given one;
        "input": the image, where the network's first layers take it;
        a `Site`.

    `image` is a tensor (N, C, H, W) or a size in pixels; default: the one used to find the `Sites` in
    `wanted`, or the model's own, or 224 x 224.

    Raises:
        ValueError: if an entry selects nothing, or a module that is not called exactly once or returns no feature map;
            the message names the nearest valid sites.
    """
    image = getattr(wanted, "image", None) if image is None else image
    entries = [wanted] if isinstance(wanted, str | int | Site) else list(wanted)
    if not entries or not all(isinstance(entry, Wanted) and not isinstance(entry, bool) for entry in entries):
        raise ValueError(
            f"sites must be names, patterns, positions, strides or Sites, at least one of them; got {wanted!r}"
        )
    words = [entry.label if isinstance(entry, Site) else entry for entry in entries]
    if words == [BOTTLENECKS]:
        return find_bottlenecks(model, image)
    flow = trace_for(model, [_path(str(word)) for word in words if _names_a_module(model, word)], image)
    chosen = {site.label: site for word in words for site in _selected(model, flow, word, image)}
    sites = Sites(sorted(chosen.values(), key=lambda site: _time(flow, site)))
    sites.image = image
    sites.convolutions = _replaceable_convolutions(model, sites)
    return sites


def _replaceable_convolutions(model: nn.Module, sites: Sites) -> dict[str, nn.Conv2d]:
    """Label of a site before a convolution -> a copy of that convolution on the meta device."""
    layers = {site.label: model.get_submodule(site.name) for site in sites if site.before}
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {
        label: nn.Conv2d(**{name: getattr(layer, name) for name in names}, bias=layer.bias is not None, device="meta")
        for label, layer in layers.items()
        if isinstance(layer, nn.Conv2d)
    }


def _selected(model: nn.Module, flow: Flow, word: str | int, image: Image | None) -> Sequence[Site]:
    """The sites that one entry of `wanted` selects."""
    if _names_a_module(model, word):
        name = str(word)
        return _matching(flow, name) if any(sign in name for sign in "*?[") else [_named(model, flow, name)]
    if isinstance(word, str) and word.startswith(_STRIDE):
        return _of_stride(find_bottlenecks(model, image, keep=99), word.removeprefix(_STRIDE))
    if word in (EVERY_BLOCK, BOTTLENECKS):
        return find_blocks(model, image) if word == EVERY_BLOCK else find_bottlenecks(model, image)
    if word == INPUT:
        return [_at_input(flow)]
    if isinstance(word, str) and word.startswith(_CONVOLUTIONS):
        return _convolutions(model, flow, word.removeprefix(_CONVOLUTIONS).removeprefix(_STRIDE))
    return [_at_position(find_bottlenecks(model, image), int(word))]


def _time(flow: Flow, site: Site) -> tuple[int, int]:
    (call, *_) = flow.calls[site.name]
    return (call.start, 1) if site.before else (call.end, 0)


def _path(word: str) -> str:
    return word.removeprefix(_BEFORE)


def _names_a_module(model: nn.Module, word: str | int) -> bool:
    """Whether `word` is a name or a pattern; "0" is a name if the model has a module "0", else a position."""
    if isinstance(word, int) or word.startswith((_STRIDE, _CONVOLUTIONS)) or word in (EVERY_BLOCK, BOTTLENECKS):
        return False
    return not (word == INPUT or word.removeprefix("-").isdigit()) or word in dict(model.named_modules())


def _at_position(sites: Sites, position: int) -> Site:
    if not -len(sites) <= position < len(sites):
        known = ", ".join(f"{number} ({site.label})" for number, site in enumerate(sites))
        raise ValueError(f"the model has no bottleneck at position {position}; choose from {known}")
    return sites[position]


def _of_stride(sites: Sites, stride: str) -> list[Site]:
    matching = [site for site in sites if str(site.stride) == stride.strip()]
    if not matching:
        known = ", ".join(f"{site.stride} ({site.label})" for site in sites)
        raise ValueError(f"no bottleneck has stride {stride!r}; choose from {known}")
    return matching


def _at_input(flow: Flow) -> Site:
    images = [node for node in flow.nodes if node.axes and not node.learned and node.size == flow.nodes[0].size]
    site = next((site for node in images for site in sites_at_input(flow, node)), None)
    if site is None:
        raise ValueError('the image enters no single module: name the site by hand, e.g. sites="before <module name>"')
    return site


def _convolutions(model: nn.Module, flow: Flow, stride: str) -> list[Site]:
    modules = dict(model.named_modules())
    by_stride: dict[int, list[Site]] = {}
    for name, calls in flow.calls.items():
        layer, output = modules.get(name), calls[0].returned
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and output:
            if isinstance(site := _site(flow, _BEFORE + name), Site):
                by_stride.setdefault(output.stride, []).append(site)
    chosen = str(max(by_stride, default=0)) if stride.strip() == _LAST else stride.strip()
    matching = [site for number, sites in by_stride.items() if str(number) == chosen for site in sites]
    if not matching:
        known = f"choose from stride {', '.join(map(str, sorted(by_stride)))}" if by_stride else "the model has none"
        raise NoSuchSites(f"no 3x3 convolution has stride {stride!r}; {known}")
    return matching


def _matching(flow: Flow, pattern: str) -> list[Site]:
    parts = _path(pattern).split(".")
    names = [
        name
        for name in flow.calls
        if name and len(name.split(".")) == len(parts) and all(map(fnmatchcase, name.split("."), parts))
    ]
    prefix = _BEFORE if pattern.startswith(_BEFORE) else ""
    sites = [site for name in names if isinstance(site := _site(flow, prefix + name), Site)]
    if not sites:
        subject = f"module that matches {pattern!r} is called once and returns one feature map"
        subject = subject if names else f"module matches {pattern!r}"
        raise ValueError(f"no {subject}; {_nearest_sites(flow, pattern)}")
    return sites


def _named(model: nn.Module, flow: Flow, word: str) -> Site:
    if _path(word) not in dict(model.named_modules()) or not _path(word):
        raise ValueError(f"the model has no module {_path(word)!r}; {_nearest_sites(flow, word)}")
    site = _site(flow, word)
    if isinstance(site, str):
        raise ValueError(f"{site}; {_nearest_sites(flow, word)}")
    return site


def _site(flow: Flow, word: str) -> Site | str:
    """The site that `word` names, or the reason it cannot be a site."""
    name, before = _path(word), word.startswith(_BEFORE)
    calls = flow.calls.get(name, [])
    if len(calls) != 1:
        times = f"{len(calls)} times" if calls else "never"
        reason = f"site {name!r} is called {times} in a forward pass: a site must be called exactly once"
        advice = f" (attach inside a part that is itself called {times}: bam.attach(model.<part>))" if calls else ""
        return reason + advice
    node = next((n for n in flow.nodes if name in n.entered), None) if before else calls[0].returned
    if node is None or node.axes is None or len(node.map) != 3:
        value = "no single tensor" if node is None else f"a tensor of shape {node.shape}"
        verb = "takes" if before else "returns"
        return f"site {name!r} {verb} {value}: attention needs one feature map (N, C, H, W) or (N, H, W, C)"
    return site_at(flow, name, node, before)


def _nearest_sites(flow: Flow, word: str) -> str:
    """The nearest valid sites: those above and below `word` in the module tree, and those with similar names."""
    valid = [name for name in flow.calls if name and isinstance(_site(flow, name), Site)]
    name = _path(word)
    family = [v for v in valid if v.startswith(f"{name}.") or name.startswith(f"{v}.")]
    family.sort(key=lambda v: abs(v.count(".") - name.count(".")))
    names = dict.fromkeys([*family[:3], *difflib.get_close_matches(name, valid, n=3, cutoff=0.3), *valid[:3]])
    if not names:
        return "no module is called once and returns one feature map"
    return f"near: {', '.join(map(repr, list(names)[:3]))}"
