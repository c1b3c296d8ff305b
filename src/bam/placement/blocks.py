"""The residual branch of every block: where SE, CBAM and the paper's "BAM-C" sit."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from bam.dryrun import Image
from bam.placement.bottlenecks import site_at
from bam.placement.cuts import ancestors
from bam.placement.flow import Flow, Node, trace
from bam.placement.sites import NoSuchSites, Site, Sites

_ADDITIONS = {"add()", "add_()", "__add__()", "__radd__()", "__iadd__()"}


class _Branch(NamedTuple):
    """The residual branch of a block, before it is added to the shortcut."""

    end: Node
    times: set[int]  #: of all nodes in the branch but not in the shortcut


def find_blocks(model: nn.Module, image: Image | None = None) -> Sites:
    """Find the end of the residual branch of every block of `model`, before it is added to the shortcut.

    One forward pass is traced. A block adds two maps that were made from the same earlier map. Its branch is the side
    with more operations; the other side, the shortcut, may project and pool, but not convolve over several places.

    Args:
        model: any CNN with residual blocks; it is left unchanged.
        image: a tensor (N, C, H, W) or a size in pixels; default: the model's own input size, or 224 x 224.

    Raises:
        NoSuchSites: if the model has no residual blocks; a ValueError.
    """
    flow = trace(model, image)
    sums = [node for node in flow.nodes if node.op in _ADDITIONS and len(node.sources) == 2]
    branches = {sum.time: branch for sum in sums if (branch := _branch(flow, sum))}
    excluded = _not_blocks(flow, branches)
    candidates = (_site(flow, branch) for time, branch in branches.items() if time not in excluded)
    sites = Sites(site for site in candidates if site)
    if not sites:
        raise NoSuchSites(
            f"{type(model).__name__} has no residual blocks (sums of a branch and a shortcut); put the attention at "
            'its bottlenecks, sites="bottlenecks", or name blocks by a pattern, e.g. sites="features.*"'
        )
    sites.image = image
    return sites


def _not_blocks(flow: Flow, branches: Mapping[int, _Branch]) -> set[int]:
    """The sums that are not blocks: one of each pair in which one sum lies in the branch of the other.

    If the same module computes both, the inner sum is part of the block (Res2Net). Otherwise the outer sum is a skip
    connection around a row of blocks (EDSR).
    """
    adders = {time: _innermost(flow, time) for time in branches}
    nested = [(inner, outer) for outer in branches for inner in branches if inner in branches[outer].times]
    return {inner if adders[inner] == adders[outer] else outer for inner, outer in nested}


def _innermost(flow: Flow, time: int) -> str:
    """The innermost module that runs at `time`."""
    running = [(c.end - c.start, name) for name, calls in flow.calls.items() for c in calls if c.start <= time < c.end]
    return min(running, default=(0, ""))[1]


def _branch(flow: Flow, sum: Node) -> _Branch | None:
    """The branch that `sum` adds to a shortcut; None if it adds anything else."""
    if not all(source.is_map and source.map == sum.map for source in sum.sources):
        return None
    before = [ancestors(source) for source in sum.sources]
    sides = [before[0] - before[1], before[1] - before[0]]
    longer = int(len(sides[1]) > len(sides[0]))
    branch, shortcut = ([flow.nodes[time] for time in sorted(sides[side])] for side in (longer, 1 - longer))
    convolves = any(node.mixes and "conv" in node.op for node in shortcut)
    descends = any(node.is_map and node.area < sum.area for node in branch + shortcut)  # a U-Net's skip connection
    computes = any("conv" in node.op or "linear" in node.op for node in branch)
    if convolves or descends or not computes or len(branch) == len(shortcut):
        return None
    return _Branch(sum.sources[longer], sides[longer])


def _site(flow: Flow, branch: _Branch) -> Site | None:
    """The site for a branch: the outermost module that returns its end.

    If no module does, the search goes back through point-wise operations.
    """
    node = branch.end
    while node.time in branch.times:
        usable = [name for name in node.owners if name and len(flow.calls[name]) == 1 and _computes(flow, name)]
        if usable:
            return site_at(flow, min(usable, key=lambda name: name.count(".")), node)
        inner = [source for source in node.sources if source.time in branch.times]
        if node.mixes or len(inner) != 1:
            return None
        node = inner[0]
    return None


def _computes(flow: Flow, name: str) -> bool:
    """Whether a module makes a new tensor; modules that drop branches return their input in eval mode."""
    (call,) = flow.calls[name]
    return call.end > call.start
