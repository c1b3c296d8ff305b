"""How tensors flow from the image through a network: one forward pass, recorded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bam.dryrun import Image, dry_run


@dataclass(eq=False)
class Node:
    """One tensor that depends on the image, as it is at one time (an in-place operation makes a new node)."""

    time: int
    shape: tuple[int, ...]
    op: str
    sources: list["Node"]
    mixes: bool  #: its operation looks at neighbouring places (a convolution larger than 1 x 1, a pooling)
    axes: tuple[int, ...]  #: which axis of (N, C, H, W), or of (N, C, places), each of its axes is
    owners: list[str] = field(default_factory=list)  #: modules that returned it
    consumers: list[str] = field(default_factory=list)  #: modules and functions that took it, in order

    @property
    def area(self) -> int:
        """Height times width."""
        return self.shape[2] * self.shape[3]

    @property
    def is_map(self) -> bool:
        """Whether it is a feature map (N, C, H, W) with more than one place."""
        return len(self.shape) == 4 and self.axes == (0, 1, 2, 3) and self.area > 1


class Flow(TorchFunctionMode):
    """The flow of tensors through one forward pass of `model`, and which modules returned which of them.

    Hooks on all modules and a torch-function mode record it; both are gone when the constructor returns.
    """

    def __init__(self, model: nn.Module, image: Image | None) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.current: dict[int, Node] = {}  # id of a tensor -> its latest node
        self.kept: list[Tensor] = []  # keeps the ids unique while the trace runs
        self.returned: dict[str, list[Node | None]] = {}  # module -> what each of its calls returned
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave(name), with_kwargs=True))
        try:
            with self:
                dry_run(model, image)
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
                    self._record(tensor, "the image", [], False, tuple(range(tensor.dim())))
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self.current:
                    self.current[id(tensor)].consumers.append(name)

        return hook

    def _leave(self, name: str) -> Callable:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and id(output) not in self.current:  # made by something the trace cannot see
                sources = self._sources((args, kwargs))
                if sources:
                    self._record(output, type(module).__name__, sources, True, tuple(range(output.dim())))
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
        mixes = _mixes_places(op, args, kwargs)
        for tensor in made:
            self._record(tensor, f"{op}()", sources, mixes, _axes(func, op, args, kwargs, sources, tensor.dim()))
        return output

    def _sources(self, values: Any) -> list[Node]:
        return [self.current[id(t)] for t in _tensors(values) if id(t) in self.current]

    def _record(self, tensor: Tensor, op: str, sources: list[Node], mixes: bool, axes: tuple[int, ...]) -> None:
        node = Node(len(self.nodes), tuple(tensor.shape), op, sources, mixes, axes)
        self.nodes.append(node)
        self.kept.append(tensor)
        self.current[id(tensor)] = node

    def cuts(self) -> list[Node]:
        """The feature maps through which all of the flow to the last, smallest feature map passes, in order."""
        batch = self.nodes[0].shape[0] if self.nodes else 0
        maps = [node for node in self.nodes if node.is_map and node.shape[0] == batch]
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
        cuts: list[Node] = []
        in_use = 0  # the latest time at which anything older than the node is still read
        last_use = {source.time: node.time for node in self.nodes if node.time in flow for source in node.sources}
        for node in self.nodes:
            if node.time not in flow:
                continue
            if in_use <= node.time and node in maps and node.sources:  # the image itself is no cut
                cuts.append(node)
            in_use = max(in_use, last_use.get(node.time, 0))
        return cuts

    def pointwise_back(self, cuts: list[Node]) -> Iterator[Node]:
        """The last of `cuts` and those before it, as long as only point-wise operations of one size lie between."""
        last = cuts[-1]
        for k in range(len(cuts) - 1, -1, -1):
            if cuts[k].shape[2:] != last.shape[2:]:
                return
            yield cuts[k]
            start = cuts[k - 1].time if k else -1
            if any(node.mixes for node in self.nodes[start + 1 : cuts[k].time + 1]):
                return


_PERMUTATIONS = ("permute", "transpose", "movedim", "swapaxes", "moveaxis", "swapdims")
_CHANNELS_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1)}


def _axes(func: Callable, op: str, args: Any, kwargs: Any, sources: list[Node], ndim: int) -> tuple[int, ...]:
    """The axes of a result: permutations are followed, also where (N, H, W, C) becomes (N, places, C) and back."""
    own = tuple(range(ndim))
    if op in ("conv2d", "batch_norm"):  # they take nothing but (N, C, H, W)
        return own
    axes = next((s.axes for s in sources if s.axes != tuple(range(len(s.axes)))), sources[0].axes)
    if op in _PERMUTATIONS and ndim in (3, 4) and len(axes) == ndim:
        sides = (2, 3, 5, 7)[:ndim]  # all different: the result's shape tells the permutation
        permuted = func(torch.empty(sides, device="meta"), *args[1:], **kwargs).shape
        return tuple(axes[sides.index(side)] for side in permuted)
    if axes in _CHANNELS_LAST.values():
        return _CHANNELS_LAST.get(ndim, axes)
    return axes if len(axes) == ndim else own


def _mixes_places(op: str, args: Any, kwargs: Any) -> bool:
    if "conv" in op:
        weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
        return not isinstance(weight, Tensor) or any(k > 1 for k in weight.shape[2:])
    return "pool" in op or op == "interpolate"


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
