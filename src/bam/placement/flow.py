"""How tensors flow from the image through a network: one forward pass, recorded."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bam.attention import named_modules
from bam.dryrun import Image, dry_run
from bam.placement.axes import NCHW, NHWC, Axes, arranged, follow
from bam.private import tree_leaves


@dataclass(eq=False)
class Node:
    """One tensor that depends on the image, as it is at one time (an in-place operation makes a new node)."""

    time: int
    shape: tuple[int, ...]
    op: str
    sources: list["Node"]
    mixes: bool  #: its operation looks at neighbouring places (a convolution larger than 1 x 1, pooling, attention)
    axes: Axes
    last_axes: Axes  #: its own, or those of the last feature map before it
    map: tuple[int, ...]  #: (C, H, W), of this tensor or else of the last feature map before it
    stride: int  #: how many pixels of the image lie between two places of that map
    learned: bool  #: made by a layer, not only padded, scaled or rearranged from the image
    owners: list[str] = field(default_factory=list)  #: modules that returned it
    consumers: list[str] = field(default_factory=list)  #: modules and functions that took it, in order
    entered: list[str] = field(default_factory=list)  #: modules that took it as their first argument

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width."""
        return self.map[1:]

    @property
    def area(self) -> int:
        """Height times width."""
        return math.prod(self.size)

    @property
    def is_map(self) -> bool:
        """Whether it is a feature map, (N, C, H, W) or (N, H, W, C), with more than one place."""
        return self.learned and self.axes in (NCHW, NHWC) and self.area > 1


@dataclass(frozen=True)
class Call:
    """One call of a module: the times at which it began and ended, and the tensor it returned (if it was one)."""

    start: int
    end: int
    returned: Node | None


class Flow(TorchFunctionMode):
    """The flow of tensors through one forward pass of `model`, and which modules returned which of them.

    Hooks on all modules and a torch-function mode record it; both are gone when the constructor returns. Names of
    modules begin with `prefix`.
    """

    def __init__(self, model: nn.Module, image: Image | None, prefix: str = "") -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.outputs: list[Node] = []  # what the model returned
        self.calls: dict[str, list[Call]] = {}  # module -> its calls; modules are listed as they first return
        self._current: dict[int, Node] = {}  # id of a tensor -> its latest node
        self._kept: list[Tensor] = []  # keeps the ids unique while the trace runs
        self._starts: list[int] = []  # of the modules that are running
        handles = []
        try:
            for name, module in named_modules(model):
                if not isinstance(module, torch.jit.ScriptModule):  # those take no such hooks
                    enter, leave = (hook(prefix + name, module is model) for hook in (self._enter, self._leave))
                    handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                    handles.append(module.register_forward_hook(leave, with_kwargs=True))
            with self:
                dry_run(model, image)
        finally:
            for handle in handles:
                handle.remove()
            self._kept.clear()

    def _enter(self, name: str, whole: bool) -> Callable:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if whole:  # its input is the image (and a second attempt starts afresh)
                for earlier in (self.nodes, self.calls, self._current, self._starts):
                    earlier.clear()
                for tensor in _tensors((args, kwargs)):
                    self._record(tensor, "the image", [], False, NCHW if tensor.dim() == 4 else None)
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self._current:
                    self._current[id(tensor)].consumers.append(name)
            if args and id(args[0]) in self._current:
                self._current[id(args[0])].entered.append(name)
            self._starts.append(len(self.nodes))

        return hook

    def _leave(self, name: str, whole: bool) -> Callable:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            sources = self._sources((args, kwargs))
            for tensor in _tensors(output) if sources else []:
                if id(tensor) not in self._current:  # made by what the trace cannot see
                    self._record(tensor, type(module).__name__, sources, True, NCHW if tensor.dim() == 4 else None)
            node = self._current.get(id(output)) if isinstance(output, Tensor) else None
            self.calls.setdefault(name, []).append(Call(self._starts.pop(), len(self.nodes), node))
            if node is not None:
                node.owners.append(name)
            if whole:
                self.outputs = self._sources(output)

        return hook

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sources = self._sources((args, kwargs))
        output = func(*args, **kwargs)
        op = getattr(func, "__name__", str(func))
        made = _tensors(args[0] if op == "__setitem__" else output)
        if not (sources and made):
            return output
        for source in sources:
            source.consumers.append(f"{op}()")
        mixes = _mixes_places(op, args, kwargs)
        known = [source.axes for source in sources if len(source.shape) == 4]
        past, past_axes = next(((source.map, source.last_axes) for source in sources if source.map), ((), None))
        for tensor in made:
            axes = follow(func, op, args, kwargs, known, tensor.shape, past, past_axes)
            self._record(tensor, f"{op}()", sources, mixes, axes)
        return output

    def within(self, *parts: str) -> "Flow":
        """This flow up to where the first of the named `parts` that takes the image returns; all of it without one."""
        taken = [name for name in parts if len(self.calls.get(name, [])) == 1 and name in self.nodes[0].entered]
        if not taken:
            return self
        part = copy.copy(self)
        part.nodes, part.outputs = self.nodes[: self.calls[taken[0]][0].end], []
        return part

    def _sources(self, values: Any) -> list[Node]:
        return [self._current[id(t)] for t in _tensors(values) if id(t) in self._current]

    def _record(self, tensor: Tensor, op: str, sources: list[Node], mixes: bool, axes: Axes) -> None:
        shape = tuple(tensor.shape)
        past = next((source for source in sources if source.map), None)
        map = arranged(shape, axes) if axes else past.map if past else ()
        stride = _stride(past, map) if past and axes else past.stride if past else 1
        learned = bool(sources) and (not op.endswith("()") or "conv" in op or "linear" in op)
        learned = learned or any(source.learned for source in sources)
        last = axes or (past.last_axes if past else None)
        node = Node(len(self.nodes), shape, op, sources, mixes, axes, last, map, stride, learned)
        self.nodes.append(node)
        self._kept.append(tensor)
        self._current[id(tensor)] = node


def _stride(past: Node, map: tuple[int, ...]) -> int:
    before, after = past.map[1], map[1]
    if 0 in (before, after) or before >= after:  # one operation's stride is whole, also where borders are lost
        return past.stride * round(before / max(1, after))
    return max(1, round(past.stride / round(after / before)))


_MIXERS = ("pool", "interpolate", "matmul", "bmm", "einsum", "attention", "lstm", "gru", "rnn", "roll", "fft")


def _mixes_places(op: str, args: Any, kwargs: Any) -> bool:
    if "conv" in op:
        weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
        return not isinstance(weight, Tensor) or any(k > 1 for k in weight.shape[2:])
    return any(word in op for word in _MIXERS)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
