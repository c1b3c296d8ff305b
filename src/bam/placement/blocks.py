"""The residual branch of every block: where SE, CBAM and the paper's "BAM-C" sit."""

from collections.abc import Mapping

from torch import nn

from bam.dryrun import Image
from bam.placement.bottlenecks import site_at, trace
from bam.placement.cuts import ancestors
from bam.placement.flow import Flow, Node
from bam.placement.sites import Site, Sites

_ADDITIONS = {"add()", "add_()", "__add__()", "__radd__()", "__iadd__()"}


def find_blocks(model: nn.Module, image: Image | None = None) -> Sites:
    """Find the end of the residual branch of every block of `model`, before it is added to the shortcut.

    One forward pass is traced. Of an addition of two maps that part from one map, the branch is the side with more
    operations; the other, the shortcut, may project and pool but does not convolve over places.

    Args:
        model: any CNN with residual blocks; it is left as it is.
        image: a tensor (N, C, H, W) or a size; default: the model's own, or 224 x 224.

    Raises:
        ValueError: if there are none.
    """
    flow = trace(model, image)
    sums = [node for node in flow.nodes if node.op in _ADDITIONS and len(node.sources) == 2]
    branches = {sum.time: branch for sum in sums if (branch := _branch(flow, sum))}
    left_out = _not_blocks(flow, branches)
    found = (_site(flow, *branch) for time, branch in branches.items() if time not in left_out)
    sites = Sites(site for site in found if site)
    if not sites:
        raise ValueError(
            f"{type(model).__name__} has no residual blocks (sums of a branch and a shortcut); name its blocks by a "
            'pattern, e.g. sites="features.*"'
        )
    sites.image = image
    return sites


def _not_blocks(flow: Flow, branches: Mapping[int, tuple[Node, set[int]]]) -> set[int]:
    """Of sums within the branch of another, which is no block: the inner one if the same module adds both, as a part of
    its block (Res2Net); else the outer one, which skips a row of blocks (EDSR).
    """
    adders = {time: _innermost(flow, time) for time in branches}
    within = [(inner, outer) for outer, (_, alone) in branches.items() for inner in branches if inner in alone]
    return {inner if adders[inner] == adders[outer] else outer for inner, outer in within}


def _innermost(flow: Flow, time: int) -> str:
    """The innermost module that runs at `time`."""
    running = [(c.end - c.start, name) for name, calls in flow.calls.items() for c in calls if c.start <= time < c.end]
    return min(running, default=(0, ""))[1]


def _branch(flow: Flow, sum: Node) -> tuple[Node, set[int]] | None:
    """The end of the branch that `sum` adds to a shortcut, and the times of what is in the branch alone."""
    if not all(source.is_map and source.map == sum.map for source in sum.sources):
        return None
    before = [ancestors(source) for source in sum.sources]
    alone = [before[0] - before[1], before[1] - before[0]]
    longer = int(len(alone[1]) > len(alone[0]))
    branch, shortcut = ([flow.nodes[time] for time in sorted(alone[side])] for side in (longer, 1 - longer))
    convolves = any(node.mixes and "conv" in node.op for node in shortcut)
    descends = any(node.is_map and node.area < sum.area for node in branch + shortcut)  # a U-Net's skip connection
    computes = any("conv" in node.op or "linear" in node.op for node in branch)
    if convolves or descends or not computes or len(branch) == len(shortcut):
        return None
    return sum.sources[longer], alone[longer]


def _site(flow: Flow, node: Node, branch: set[int]) -> Site | None:
    """The outermost module that returns `node`, or the map before it in the branch from which it is made point-wise."""
    while node.time in branch:
        usable = [name for name in node.owners if name and len(flow.calls[name]) == 1 and _computes(flow, name)]
        if usable:
            return site_at(flow, min(usable, key=lambda name: name.count(".")), node)
        inner = [source for source in node.sources if source.time in branch]
        if node.mixes or len(inner) != 1:
            return None
        node = inner[0]
    return None


def _computes(flow: Flow, name: str) -> bool:
    """Whether a module makes anything: those that drop branches in training return their input here."""
    (call,) = flow.calls[name]
    return call.end > call.start
