"""Sites chosen by hand: by name, position, stride or pattern, or every block."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from bam.attention import named_modules
from bam.dryrun import Image
from bam.placement.blocks import find_blocks
from bam.placement.bottlenecks import backbone_of_detector, find_bottlenecks, site_at, trace
from bam.placement.flow import Flow
from bam.placement.sites import Site, Sites

_BEFORE = "before "
_STRIDE = "stride "
EVERY_BLOCK = "every block"


Wanted = str | int | Site


def select_sites(model: nn.Module, wanted: Wanted | Sequence[Wanted], image: Image | None = None) -> Sites:
    """The sites that `wanted` stands for, in forward order, each checked to be one feature map.

    Each of `wanted` is
        a name: "layer1", the output of that module; "before layer2", its first argument;
        a pattern: "layer?.*", all modules of such names that return a feature map; `*` does not go beyond a dot;
        a position: 0 or -1, among `find_bottlenecks(model, image)`;
        a stride: "stride 8", the bottlenecks whose map is an eighth of the image;
        "every block": the residual branch of every block, see `find_blocks`;
        a `Site`.

    Raises:
        ValueError: for one that stands for nothing, or for a module that is not called once or returns no feature map;
            the message names the nearest that would do.
    """
    image = getattr(wanted, "image", None) if image is None else image
    several = [wanted] if isinstance(wanted, str | int | Site) else list(wanted)
    if not several or not all(isinstance(one, str | int | Site) and not isinstance(one, bool) for one in several):
        raise ValueError(f"sites: names, patterns, positions, strides or Sites, at least one of them; got {wanted!r}")
    choices = [one.label if isinstance(one, Site) else one for one in several]
    found: list[Site]
    flow = _flow_for(model, [str(one) for one in choices if _names_a_module(model, one)], image)
    chosen: dict[str, Site] = {}
    for one in choices:
        if _names_a_module(model, one):
            word = str(one)
            found = _matching(flow, word) if any(sign in word for sign in "*?[") else [_named(model, flow, word)]
        elif isinstance(one, str) and one.startswith(_STRIDE):
            found = _of_stride(find_bottlenecks(model, image, keep=99), one.removeprefix(_STRIDE))
        elif one == EVERY_BLOCK:
            found = list(find_blocks(model, image))
        else:
            found = [_at_position(find_bottlenecks(model, image), int(one))]
        chosen |= {site.label: site for site in found}
    sites = Sites(sorted(chosen.values(), key=lambda site: _time(flow, site)))
    sites.image = image
    return sites


def calls(model: nn.Module, sites: Sequence[Site], image: Image | None) -> set[str]:
    """The names of the modules that run in a forward pass; of a detector only in its backbone, if `sites` are there."""
    return set(_flow_for(model, [site.name for site in sites], image).calls)


def _flow_for(model: nn.Module, names: Sequence[str], image: Image | None) -> Flow:
    prefix = backbone_of_detector(model)
    whole = prefix and not all(_path(name).startswith(prefix) for name in names)
    return Flow(model, image) if whole else trace(model, image)


def _time(flow: Flow, site: Site) -> tuple[int, int]:
    (call, *_) = flow.calls[site.name]
    return (call.start, 1) if site.before else (call.end, 0)


def _path(word: str) -> str:
    return word.removeprefix(_BEFORE)


def _names_a_module(model: nn.Module, word: str | int) -> bool:
    """Whether it is a name or a pattern; "0" is one if the model has a module "0", and a position otherwise."""
    if isinstance(word, int) or word.startswith(_STRIDE) or word == EVERY_BLOCK:
        return False
    return not word.removeprefix("-").isdigit() or word in dict(named_modules(model))


def _at_position(sites: Sites, position: int) -> Site:
    if not -len(sites) <= position < len(sites):
        known = ", ".join(f"{number} {site.label}" for number, site in enumerate(sites))
        raise ValueError(f"there is no bottleneck at position {position}; there are {known}")
    return sites[position]


def _of_stride(sites: Sites, stride: str) -> list[Site]:
    found = [site for site in sites if str(site.stride) == stride.strip()]
    if not found:
        known = ", ".join(f"{site.stride} ({site.label})" for site in sites)
        raise ValueError(f"no bottleneck has stride {stride!r}; there are {known}")
    return found


def _matching(flow: Flow, pattern: str) -> list[Site]:
    parts = _path(pattern).split(".")
    labels = [
        f"{_BEFORE if pattern.startswith(_BEFORE) else ''}{name}"
        for name in flow.calls
        if name and len(name.split(".")) == len(parts) and all(map(fnmatchcase, name.split("."), parts))
    ]
    found = [site for site in (_site(flow, label) for label in labels) if isinstance(site, Site)]
    if not found:
        what = "is called once and returns one feature map" if labels else "is there"
        raise ValueError(f"no module that matches {pattern!r} {what}; {_near(flow, pattern)}")
    return found


def _named(model: nn.Module, flow: Flow, word: str) -> Site:
    if _path(word) not in dict(named_modules(model)) or not _path(word):
        raise ValueError(f"the model has no module {_path(word)!r}; {_near(flow, word)}")
    site = _site(flow, word)
    if isinstance(site, str):
        raise ValueError(f"{site}; {_near(flow, word)}")
    return site


def _site(flow: Flow, word: str) -> Site | str:
    """The site of a module of the model, or why it is none."""
    name, before = _path(word), word.startswith(_BEFORE)
    calls = flow.calls.get(name, [])
    if len(calls) != 1:
        times = f"{len(calls)} times" if calls else "never"
        what = f"site {name!r} is called {times} in a forward pass: a site must be called exactly once"
        return f"{what} (attach inside of a part that is called {times}: bam.attach(model.<part>))" if calls else what
    node = next((n for n in flow.nodes if name in n.entered), None) if before else calls[0].returned
    if node is None or node.axes is None or len(node.map) != 3:
        what = "no single tensor" if node is None else f"a tensor of shape {node.shape}"
        verb = "takes" if before else "returns"
        return f"site {name!r} {verb} {what}: attention needs one feature map (N, C, H, W) or (N, H, W, C)"
    return site_at(flow, name, node, before)


def _near(flow: Flow, word: str) -> str:
    """The valid sites whose names are nearest: those above and below it in the tree, and those spelt alike."""
    valid = [name for name in flow.calls if name and isinstance(_site(flow, name), Site)]
    name = _path(word)
    family = [v for v in valid if v.startswith(f"{name}.") or name.startswith(f"{v}.")]
    family.sort(key=lambda v: abs(v.count(".") - name.count(".")))
    near = dict.fromkeys([*family[:3], *difflib.get_close_matches(name, valid, n=3, cutoff=0.3), *valid[:3]])
    return (
        f"near: {', '.join(map(repr, list(near)[:3]))}"
        if near
        else "no module is called once and returns one feature map"
    )
