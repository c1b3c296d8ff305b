"""Cut points: the feature maps through which all of the flow passes, and what lies around them."""

from collections.abc import Iterator, Sequence

from bam.placement.flow import Flow, Node


def cuts(flow: Flow) -> list[Node]:
    """The feature maps through which all of the flow to the deepest one passes, in order."""
    target = deepest(flow)
    return cuts_before(flow, target) if target is not None else []


def cuts_before(flow: Flow, target: Node) -> list[Node]:
    """The feature maps through which all of the flow to `target` passes, in order."""
    on_the_way = ancestors(target)
    last_use = {source.time: node.time for node in flow.nodes if node.time in on_the_way for source in node.sources}
    found: list[Node] = []
    in_use = 0  # the latest time at which anything older than the node is still read
    for node in flow.nodes:
        if node.time not in on_the_way:
            continue
        if in_use <= node.time and _shows_the_image(flow, node):
            found.append(node)
        in_use = max(in_use, last_use.get(node.time, 0))
    return found


def deepest(flow: Flow) -> Node | None:
    """The feature map with which the network's descent ends.

    It is the last of the smallest maps, if the output is made of it alone. Else, something may pool to a still smaller
    size inside a block: then the last cut before the output, if the cuts only shrink. Else a decoder follows, which
    makes larger maps again: then the last of the smallest maps before it; and only the part `encoder` or `backbone` of
    the network is looked at, if it has one that takes the image.
    """
    maps = [node for node in flow.nodes if _shows_the_image(flow, node)]
    if not maps:
        return None
    area = min(node.area for node in maps)
    lows = [node for node in maps if node.area == area]
    if flow.nodes[0].time not in ancestors(*flow.outputs, without=lows[-1]):
        return lows[-1]
    part = flow.within("encoder", "backbone")
    if part is not flow:
        return deepest(part)
    if len(flow.outputs) == 1:
        main = cuts_before(flow, flow.outputs[0])
        areas = [node.area for node in main]
        if areas and areas == sorted(areas, reverse=True) and areas[-1] <= 8 * area:
            return main[-1]
    below = {node.time for node in lows}
    for node in flow.nodes:
        if any(source.time in below for source in node.sources):
            below.add(node.time)
            if node.is_map and node.area > area:
                return max((low for low in lows if low.time < node.time), key=lambda low: low.time)
    return lows[-1]


def stray_streams(flow: Flow) -> bool:
    """Whether there are smallest maps that are neither made into the deepest one nor of it: those of another stream."""
    target = deepest(flow)
    assert target is not None
    before, after = ancestors(target), {target.time}
    for node in flow.nodes:
        if any(source.time in after for source in node.sources):
            after.add(node.time)
    looked_at = flow.within("encoder", "backbone").nodes  # what comes after is a decoder's business
    lows = [node for node in looked_at if _shows_the_image(flow, node) and node.area == target.area]
    return any(node.time not in before | after for node in lows)


def ancestors(*nodes: Node, without: Node | None = None) -> set[int]:
    """The times of `nodes` and of all that they are made of, not looking past `without`."""
    pending = [node for node in nodes if node is not without]
    found = {node.time for node in pending}
    while pending:
        for source in pending.pop().sources:
            if source.time not in found and source is not without:
                found.add(source.time)
                pending.append(source)
    return found


def pointwise_back(flow: Flow, found: Sequence[Node]) -> Iterator[Node]:
    """The last of the cuts and those before it, as long as only point-wise operations of one size lie between."""
    for k in range(len(found) - 1, -1, -1):
        if found[k].size != found[-1].size:
            return
        yield found[k]
        start = found[k - 1].time if k else -1
        if any(node.mixes for node in flow.nodes[start + 1 : found[k].time + 1]):
            return


def stage_entry(flow: Flow, found: Sequence[Node], position: int) -> int:
    """The position, among the cuts, of the one that enters the stage which the down-sampling after `position` opens.

    A stage is the outermost module that makes the new size of the size before it and works mostly at the new size,
    with no part that ends before: networks may convolve once more at the old size when a stage has begun.
    """
    before, after = found[position : position + 2]
    down = next(node.time for node in flow.nodes[before.time + 1 :] if node.is_map and node.area < before.area)
    single = [(name, calls[0]) for name, calls in flow.calls.items() if len(calls) == 1]
    ended = {name.rpartition(".")[0] for name, call in single if call.end <= down and call.returned in found}
    for name, call in sorted(single, key=lambda item: item[1].start - item[1].end):  # the longest first
        if name in ended or not 0 <= down - call.start < call.end - down:
            continue
        entering = [k for k, node in enumerate(found) if node.time < call.start]
        leaving = [node for node in found if call.start <= node.time < call.end]
        if entering and leaving and (found[entering[-1]].size, leaving[-1].size) == (before.size, after.size):
            return entering[-1]
    return position


def parallel_sizes(flow: Flow, before: Node, after: Node) -> list[list[Node]]:
    """Between two cuts: the maps on the way that modules returned, of each size that is half of the one before it."""
    on_the_way = ancestors(after)
    between = [node for node in flow.nodes[before.time + 1 : after.time] if node.time in on_the_way and node.owners]
    found: list[list[Node]] = []
    last = before
    for area in sorted({node.area for node in between if node.is_map}, reverse=True):
        maps = [node for node in between if node.is_map and node.area == area]
        if halves(last, maps[-1]) and area > after.area:
            found.append(maps)
            last = maps[-1]
    return found


def halves(before: Node, after: Node) -> bool:
    """Whether `after` has about half the height and width of `before`, up to a quarter."""
    ratios = [b / a for b, a in zip(before.size, after.size, strict=True)]
    return 1.5 < max(ratios) < 5 and min(ratios) >= 1


def _shows_the_image(flow: Flow, node: Node) -> bool:
    """Whether it is a feature map of the whole image: strips that some attentions pool (1 x W) are not."""
    image = flow.nodes[0]
    if not node.is_map or node.shape[0] != image.shape[0]:
        return False
    (height, width), (rows, columns) = image.size, node.size
    return 1 / 3 < (height * columns) / (width * rows) < 3
