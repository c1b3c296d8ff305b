"""The places before each down-sampling, found by tracing one forward pass."""

from collections.abc import Sequence

from torch import nn

from bam.dryrun import Image, image_shape
from bam.placement.axes import NHWC
from bam.placement.cuts import (
    ancestors,
    cuts,
    halves,
    parallel_sizes,
    pointwise_back,
    stage_entry,
    stray_streams,
)
from bam.placement.flow import Flow, Node
from bam.placement.sites import Site, Sites


class NoDownSampling(ValueError):
    """The network has no feature maps that are down-sampled, so that there is no bottleneck."""


Finding = tuple[Site | None, str]  # a site, or why there is none, or what is to be known about it


def find_bottlenecks(model: nn.Module, image: Image | None = None, *, keep: int = 3) -> Sites:
    """Find the sites just before each down-sampling of `model`, in forward order; the last `keep` of them.

    One forward pass records how tensors flow. A site is the output of a module through which all of the flow to the
    deepest feature map passes, before that map is halved; the end of a stage is preferred to what lies inside of
    stages. BAM's paper places three of them (https://arxiv.org/abs/1807.06514, figure 1). Maps may be (N, C, H, W) or
    (N, H, W, C). Of a detector or segmentation network, the part `encoder` or `backbone` is looked at.

    Args:
        model: any CNN; it is left as it is.
        image: a tensor (N, C, H, W) or a size (a side, (H, W) or (C, H, W)); default: the model's own, or 224 x 224.
        keep: how many sites to keep, counted from the deepest.

    Raises:
        ValueError: if the model has no down-sampling, or none can be located; the message says why.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    flow = trace(model, image)
    found = cuts(flow)
    findings: list[Finding] = []
    smallest = float("inf")
    for position, (before, after) in enumerate(zip(found, found[1:], strict=False)):
        smallest = min(smallest, before.area)
        if before.area > smallest:
            continue
        parallel = _parallel_sites(flow, before, after) if before.area > 8 * after.area else []
        if parallel or halves(before, after):
            findings += [_site_before(flow, found, position), *parallel]
        elif before.area > 4 * after.area:
            size = "{} x {} and {} x {}".format(*before.size, *after.size)
            findings.append((None, f"no site between {size}: no single map there carries all of the flow"))
    kept = findings[-keep:]
    sites = Sites(site for site, _ in kept if site is not None)
    sites.notes = tuple(note for _, note in kept if note)
    sites.image = image
    if not sites:
        raise _nothing_found(model, flow, sites.notes)
    if stray_streams(flow):
        sites.notes += ("a parallel stream of maps carries a part of the flow past these sites",)
    return sites


def trace(model: nn.Module, image: Image | None) -> Flow:
    """The flow through `model`; through the backbone of one of torchvision's detectors, which take lists of images."""
    prefix = backbone_of_detector(model)
    if not prefix:
        return Flow(model, image)
    size = image_shape(model, image)
    return Flow(model.get_submodule(prefix), size[1:], f"{prefix}.")


def backbone_of_detector(model: nn.Module) -> str:
    """The name of the part of one of torchvision's detectors that looks at the image; "" for other models."""
    if not any(cls.__module__.startswith("torchvision.models.detection") for cls in type(model).__mro__):
        return ""
    parts = dict(model.named_modules())
    return next((name for name in ("backbone.body", "backbone.features", "backbone") if name in parts), "")


def site_at(flow: Flow, name: str, node: Node, before: bool = False) -> Site:
    """The site at module `name` for the feature map `node`."""
    consumers = (c for c in node.consumers if before or not f"{c}.".startswith(f"{name}."))
    axes = "NHWC" if node.axes == NHWC else "NCHW"
    channels, height, width = node.map
    return Site(name, channels, height, width, node.stride, next(consumers, ""), before, axes)


def _site_before(flow: Flow, found: Sequence[Node], position: int) -> Finding:
    """The site for the down-sampling after the cut at `position`, or the reason why there is none.

    Going back as long as only point-wise operations lie between, the map of the outermost module wins, and of equals
    the last: the end of a stage rather than the expansion inside the next one's first block.
    """
    best, reason = None, f"its input is made by {found[position].op} outside of any module"
    for node in pointwise_back(flow, found[: stage_entry(flow, found, position) + 1]):
        owners = [name for name in node.owners if name]
        usable = [name for name in owners if len(flow.calls[name]) == 1]
        if owners and not usable:
            reason = f"its input comes from {owners[-1]!r}, which is called {len(flow.calls[owners[-1]])} times"
        candidates = [site_at(flow, name, node) for name in usable] or _sites_at_input(flow, node)
        best = min([best, *candidates] if best else candidates, key=lambda site: site.name.count("."), default=None)
    if best is not None:
        return best, ""
    size = "{} x {} to {} x {}".format(*found[position].size, *found[position + 1].size)
    return None, f"no site before the down-sampling {size} ({found[position + 1].op}): {reason}"


def _sites_at_input(flow: Flow, node: Node) -> list[Site]:
    """A site before the module that takes a map which no module returned, if nothing else takes it."""
    users = [user.time for user in flow.nodes if node in user.sources]
    for name in node.entered:
        calls = flow.calls[name]
        if name and len(calls) == 1 and users and all(calls[0].start <= time < calls[0].end for time in users):
            return [site_at(flow, name, node, before=True)]
    return []


def _parallel_sites(flow: Flow, before: Node, after: Node) -> list[Finding]:
    """Sites where parallel branches leave no cut: of each size the last map of an outermost module.

    NASNet's cells read the two cells before them, HRNet's branches go on at all sizes.
    """
    findings: list[Finding] = []
    for maps in parallel_sizes(flow, before, after):
        owners = [(name, node) for node in maps for name in node.owners if name and len(flow.calls[name]) == 1]
        outermost = [(name, node) for name, node in owners if name.count(".") <= 1]
        if outermost:
            least = min(name.count(".") for name, _ in outermost)
            name, node = [(name, node) for name, node in outermost if name.count(".") == least][-1]
            size = "{} x {}".format(*node.size)
            findings.append((site_at(flow, name, node), f"{name!r} carries only a part of the flow at {size}"))
    return findings


def _nothing_found(model: nn.Module, flow: Flow, notes: Sequence[str]) -> ValueError:
    by_hand = 'name the sites by hand: bam.attach(model, sites=["<module name>", ...])'
    what = f"{type(model).__name__} on an image {flow.nodes[0].shape[1:]}"
    if notes:
        reasons = "\n".join(f"  {note}" for note in notes)
        return ValueError(f"{what}: no down-sampling could be given a site; {by_hand}\n{reasons}")
    if flow.nodes[0].time not in ancestors(*flow.outputs):
        return ValueError(f"{what}: the flow from the image to the output could not be followed; {by_hand}")
    return NoDownSampling(
        f"{what} has no down-sampling of a feature map (N, C, H, W) after its first layer: BAM sits before "
        f"down-samplings. If the image is small, try a larger one; else {by_hand}"
    )
