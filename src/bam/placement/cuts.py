"""Cuts: the feature maps that carry all of the flow from the image to the deepest map."""

from collections.abc import Iterator, Sequence

from bam.placement.flow import Flow, Node


def cuts(flow: Flow) -> list[Node]:
    """The feature maps that carry all of the flow to the deepest one, in forward order."""
    target = deepest(flow)
    return cuts_before(flow, target) if target is not None else []


def cuts_before(flow: Flow, target: Node) -> list[Node]:
    """The feature maps that carry all of the flow to `target`, in forward order."""
    on_the_way = ancestors(target)
    last_use = {source.time: node.time for node in flow.nodes if node.time in on_the_way for source in node.sources}
    cut_maps: list[Node] = []
    in_use = 0  # the latest time at which anything older than the node is still read
    for node in flow.nodes:
        if node.time not in on_the_way:
            continue
        if in_use <= node.time and _shows_the_image(flow, node):
            cut_maps.append(node)
        in_use = max(in_use, last_use.get(node.time, 0))
    return cut_maps


def deepest(flow: Flow) -> Node | None:
    """The feature map at which the network stops down-sampling; None if there are no feature maps.

    1. If the output depends on the image through the last of the smallest maps alone, it is that map.
    2. Otherwise, if the network has a part `encoder` or `backbone` that takes the image, only that part counts.
    3. A block may pool to a smaller size inside: if the cuts before the output never grow and end near that size,
       it is the last cut.
    4. Otherwise a decoder makes larger maps again: it is the last of the smallest maps before the decoder.
    """
    maps = [node for node in flow.nodes if _shows_the_image(flow, node)]
    if not maps:
        return None
    area = min(node.area for node in maps)
    smallest = [node for node in maps if node.area == area]
    if flow.nodes[0].time not in ancestors(*flow.outputs, without=smallest[-1]):
        return smallest[-1]
    part = flow.within("encoder", "backbone")
    if part is not flow:
        return deepest(part)
    if len(flow.outputs) == 1:
        cut_maps = cuts_before(flow, flow.outputs[0])
        areas = [node.area for node in cut_maps]
        if areas and areas == sorted(areas, reverse=True) and areas[-1] <= 8 * area:
            return cut_maps[-1]
    downstream = {node.time for node in smallest}  # the smallest maps and everything that depends on them
    for node in flow.nodes:
        if any(source.time in downstream for source in node.sources):
            downstream.add(node.time)
            if node.is_map and node.area > area:
                return max((low for low in smallest if low.time < node.time), key=lambda low: low.time)
    return smallest[-1]


def stray_streams(flow: Flow) -> bool:
    """Whether a parallel stream has smallest maps of its own, which the deepest map neither uses nor leads to."""
    target = deepest(flow)
    assert target is not None
    before, after = ancestors(target), {target.time}
    for node in flow.nodes:
        if any(source.time in after for source in node.sources):
            after.add(node.time)
    nodes = flow.within("encoder", "backbone").nodes  # the rest is the decoder
    smallest = [node for node in nodes if _shows_the_image(flow, node) and node.area == target.area]
    return any(node.time not in before | after for node in smallest)


def ancestors(*nodes: Node, without: Node | None = None) -> set[int]:
    """The times of `nodes` and of everything they depend on, except through `without`."""
    pending = [node for node in nodes if node is not without]
    times = {node.time for node in pending}
    while pending:
        for source in pending.pop().sources:
            if source.time not in times and source is not without:
                times.add(source.time)
                pending.append(source)
    return times


def pointwise_back(flow: Flow, cut_maps: Sequence[Node]) -> Iterator[Node]:
    """The last of `cut_maps`, then those before it of the same size, until an operation mixes places."""
    for k in range(len(cut_maps) - 1, -1, -1):
        if cut_maps[k].size != cut_maps[-1].size:
            return
        yield cut_maps[k]
        start = cut_maps[k - 1].time if k else -1
        if any(node.mixes for node in flow.nodes[start + 1 : cut_maps[k].time + 1]):
            return


def stage_entry(flow: Flow, cut_maps: Sequence[Node], position: int) -> int:
    """The position in `cut_maps` of the input of the stage that contains the down-sampling after `position`.

    A stage is the outermost module that takes a map of the old size and works mostly at the new one; none of its parts
    may end before the down-sampling. Some stages convolve once more at the old size before they down-sample.
    """
    before, after = cut_maps[position : position + 2]
    down = next(node.time for node in flow.nodes[before.time + 1 :] if node.is_map and node.area < before.area)
    single = [(name, calls[0]) for name, calls in flow.calls.items() if len(calls) == 1]
    ended = {name.rpartition(".")[0] for name, call in single if call.end <= down and call.returned in cut_maps}
    for name, call in sorted(single, key=lambda item: item[1].start - item[1].end):  # the longest first
        if name in ended or not 0 <= down - call.start < call.end - down:
            continue
        entering = [k for k, node in enumerate(cut_maps) if node.time < call.start]
        leaving = [node for node in cut_maps if call.start <= node.time < call.end]
        if entering and leaving and (cut_maps[entering[-1]].size, leaving[-1].size) == (before.size, after.size):
            return entering[-1]
    return position


def parallel_sizes(flow: Flow, before: Node, after: Node) -> list[list[Node]]:
    """The maps that modules return between two cuts: one list per size, each size half of the previous one."""
    on_the_way = ancestors(after)
    between = [node for node in flow.nodes[before.time + 1 : after.time] if node.time in on_the_way and node.owners]
    maps_by_size: list[list[Node]] = []
    last = before
    for area in sorted({node.area for node in between if node.is_map}, reverse=True):
        maps = [node for node in between if node.is_map and node.area == area]
        if halves(last, maps[-1]) and area > after.area:
            maps_by_size.append(maps)
            last = maps[-1]
    return maps_by_size


def halves(before: Node, after: Node) -> bool:
    """Whether the sides of `after` are about half of those of `before`; a quarter also counts."""
    ratios = [b / a for b, a in zip(before.size, after.size, strict=True)]
    return 1.5 < max(ratios) < 5 and min(ratios) >= 1


def _shows_the_image(flow: Flow, node: Node) -> bool:
    """Whether `node` is a feature map of the whole image, unlike the strips (1 x W) that some attention pools."""
    image = flow.nodes[0]
    if not node.is_map or node.shape[0] != image.shape[0]:
        return False
    (height, width), (rows, columns) = image.size, node.size
    return 1 / 3 < (height * columns) / (width * rows) < 3
