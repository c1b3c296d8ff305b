"""The bottlenecks: the places just before each down-sampling, found by tracing one forward pass."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from bam.dryrun import Image
from bam.placement.axes import NHWC
from bam.placement.cuts import ancestors, cuts, halves, parallel_sizes, pointwise_back, stage_entry, stray_streams
from bam.placement.flow import Flow, Node, trace
from bam.placement.sites import NoSuchSites, Site, Sites


class NoDownSampling(NoSuchSites):
    """The network does not down-sample any feature map, so it has no bottlenecks."""


class Finding(NamedTuple):
    """The result for one down-sampling: a site (None if there is none), and a note for the user."""

    site: Site | None
    note: str = ""


def find_bottlenecks(model: nn.Module, image: Image | None = None, *, keep: int = 3) -> Sites:
    """Find the sites just before the last `keep` down-samplings of `model`, in forward order.

    One forward pass records how tensors flow. A site is the output of a module that carries all of the flow to the
    deepest feature map, before that map is halved; the end of a stage is preferred to a module inside the stage. The
    BAM paper has three such sites (https://arxiv.org/abs/1807.06514, figure 1). Maps may be (N, C, H, W) or
    (N, H, W, C). In a detector or a segmentation network, only the part `encoder` or `backbone` is searched.

    Args:
        model: any CNN; it is left unchanged.
        image: a tensor (N, C, H, W) or a size in pixels (a side, (H, W) or (C, H, W)); default: the model's own input
            size, or 224 x 224.
        keep: how many sites to keep, counted from the deepest.

    Raises:
        ValueError: if the model has no down-sampling (`NoDownSampling`), or no site can be located; the message says
            why.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    flow = trace(model, image)
    findings = _findings(flow)[-keep:]
    sites = Sites(finding.site for finding in findings if finding.site is not None)
    sites.notes = tuple(finding.note for finding in findings if finding.note)
    sites.image = image
    if not sites:
        raise _no_sites(model, flow, sites.notes)
    if stray_streams(flow):
        sites.notes += ("a parallel stream of maps carries a part of the flow past these sites",)
    return sites


def site_at(flow: Flow, name: str, node: Node, before: bool = False) -> Site:
    """The site at module `name` for the feature map `node`."""
    consumers = (c for c in node.consumers if before or not f"{c}.".startswith(f"{name}."))
    axes = "NHWC" if node.axes == NHWC else "NCHW"
    channels, height, width = node.map
    return Site(name, channels, height, width, node.stride, next(consumers, ""), before, axes)


def _findings(flow: Flow) -> list[Finding]:
    """A finding for each down-sampling, in forward order."""
    cut_maps = cuts(flow)
    findings: list[Finding] = []
    smallest = float("inf")
    for position, (before, after) in enumerate(zip(cut_maps, cut_maps[1:], strict=False)):
        smallest = min(smallest, before.area)
        if before.area > smallest:
            continue
        parallel = _parallel_sites(flow, before, after) if before.area > 8 * after.area else []
        if parallel or halves(before, after):
            findings += [_site_before(flow, cut_maps, position), *parallel]
        elif before.area > 4 * after.area:
            sizes = "{} x {} and {} x {}".format(*before.size, *after.size)
            findings.append(Finding(None, f"no site between {sizes}: no single map there carries all of the flow"))
    return findings


def find_last_map(model: nn.Module, image: Image | None = None) -> Site:
    """Find the site of the deepest feature map, which a classifier pools: the outermost module that returns it.

    Args:
        model: any CNN; it is left unchanged.
        image: as for `find_bottlenecks`.

    Raises:
        ValueError: if no module returns it, or the network does not down-sample (`NoDownSampling`).
    """
    flow = trace(model, image)
    cut_maps = cuts(flow)
    if not _findings(flow):
        raise _no_sites(model, flow, ())
    site, reason = _outermost(flow, cut_maps)
    if site is None:
        raise ValueError(f"{type(model).__name__}: no module returns the last feature map: {reason}")
    return site


def _site_before(flow: Flow, cut_maps: Sequence[Node], position: int) -> Finding:
    """The site for the down-sampling after the cut at `position`, or the reason there is none."""
    best, reason = _outermost(flow, cut_maps[: stage_entry(flow, cut_maps, position) + 1], cut_maps[position])
    if best is not None:
        return Finding(best)
    sizes = "{} x {} to {} x {}".format(*cut_maps[position].size, *cut_maps[position + 1].size)
    return Finding(None, f"no site before the down-sampling {sizes} ({cut_maps[position + 1].op}): {reason}")


def _outermost(flow: Flow, cut_maps: Sequence[Node], maker: Node | None = None) -> tuple[Site | None, str]:
    """The site at the last of `cut_maps`, or the reason there is none, which names the operation behind `maker`.

    The search goes back through point-wise operations. The outermost module wins; among equals, the last one does. So
    the end of a stage wins over the expansion inside the first block of the next.
    """
    best, reason = None, f"its input is made by {(maker or cut_maps[-1]).op} outside of any module"
    for node in pointwise_back(flow, cut_maps):
        owners = [name for name in node.owners if name]
        usable = [name for name in owners if len(flow.calls[name]) == 1]
        if owners and not usable:
            reason = f"its input comes from {owners[-1]!r}, which is called {len(flow.calls[owners[-1]])} times"
        candidates = [site_at(flow, name, node) for name in usable] or sites_at_input(flow, node)
        best = min([best, *candidates] if best else candidates, key=lambda site: site.name.count("."), default=None)
    return best, reason


def sites_at_input(flow: Flow, node: Node) -> list[Site]:
    """The site before the module that takes the map `node`, which no module returned, if nothing else takes it."""
    users = [user.time for user in flow.nodes if node in user.sources]
    for name in node.entered:
        calls = flow.calls[name]
        is_part = name and not name.endswith(".")  # not the network, or a detector's backbone, itself
        if is_part and len(calls) == 1 and users and all(calls[0].start <= time < calls[0].end for time in users):
            return [site_at(flow, name, node, before=True)]
    return []


def _parallel_sites(flow: Flow, before: Node, after: Node) -> list[Finding]:
    """Sites where parallel branches leave no cut: for each size, the last map returned by an outermost module.

    Examples are NASNet, whose cells read the two cells before them, and HRNet, whose branches run at all sizes.
    """
    findings: list[Finding] = []
    for maps in parallel_sizes(flow, before, after):
        owners = [(name, node) for node in maps for name in node.owners if name and len(flow.calls[name]) == 1]
        outermost = [(name, node) for name, node in owners if name.count(".") <= 1]
        if outermost:
            depth = min(name.count(".") for name, _ in outermost)
            name, node = [(name, node) for name, node in outermost if name.count(".") == depth][-1]
            note = "{!r} carries only a part of the flow at {} x {}".format(name, *node.size)
            findings.append(Finding(site_at(flow, name, node), note))
    return findings


def _no_sites(model: nn.Module, flow: Flow, notes: Sequence[str]) -> ValueError:
    by_hand = 'name the sites by hand: bam.attach(model, sites=["<module name>", ...])'
    subject = f"{type(model).__name__} on an image {flow.nodes[0].shape[1:]}"
    if notes:
        reasons = "\n".join(f"  {note}" for note in notes)
        return ValueError(f"{subject}: no down-sampling could be given a site; {by_hand}\n{reasons}")
    if flow.nodes[0].time not in ancestors(*flow.outputs):
        return ValueError(f"{subject}: the flow from the image to the output could not be followed; {by_hand}")
    return NoDownSampling(
        f"{subject} has no down-sampling of a feature map (N, C, H, W) after its first layer: BAM sits before "
        f"down-samplings. If the image is small, try a larger one; otherwise {by_hand}"
    )
