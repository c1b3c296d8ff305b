"""The flow of tensors from the image through a network, recorded in one forward pass."""

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bam.dryrun import Image, dry_run, image_shape
from bam.placement.axes import NCHW, NHWC, Axes, FeatureMap, follow, sizes_of
from bam.placement.operation import Operation
from bam.private import tree_leaves
from bam.snapshot import need_module


@dataclass(eq=False)
class Node:
    """A tensor that depends on the image, at one point in time: an in-place operation makes a new node."""

    time: int
    shape: tuple[int, ...]
    op: str  #: the operation that made it, e.g. "conv2d()"
    sources: list["Node"]
    mixes: bool  #: its operation looks at neighbouring places (a convolution larger than 1 x 1, pooling, attention)
    axes: Axes
    last_map: FeatureMap | None  #: this tensor, or the last feature map before it
    stride: int  #: of that map: the distance between neighbouring places in image pixels
    learned: bool  #: a layer has processed it; false while the image is only padded, scaled or rearranged
    owners: list[str] = field(default_factory=list)  #: modules that returned it
    consumers: list[str] = field(default_factory=list)  #: modules and functions that took it, in order
    entered: list[str] = field(default_factory=list)  #: modules that took it as their first argument

    @property
    def map(self) -> tuple[int, ...]:
        """(C, H, W) of this tensor, or of the last feature map before it; () if there is none."""
        return self.last_map.sizes if self.last_map else ()

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
    """One call of a module: when it began and ended, and the tensor it returned (None if it returned anything else)."""

    start: int
    end: int
    returned: Node | None


class Flow(TorchFunctionMode):
    """The flow of tensors through one forward pass of `model`, with the modules that took and returned them.

    The constructor runs the pass under a torch-function mode, with hooks on all modules. All module names
    get `prefix` in front.
    """

    def __init__(self, model: nn.Module, image: Image | None, prefix: str = "") -> None:
        super().__init__()
        _refuse_volumes(model)
        self.nodes: list[Node] = []
        self.outputs: list[Node] = []  # what the model returned
        self.calls: dict[str, list[Call]] = {}  # module -> its calls; modules are listed as they first return
        self._current: dict[int, Node] = {}  # id of a tensor -> its latest node
        self._alive: list[Tensor] = []  # keeps the ids unique while the trace runs
        self._starts: list[int] = []  # start times of the running modules

        def watch() -> Flow:  # a second attempt starts from scratch
            for record in (self.nodes, self.calls, self._current, self._starts):
                record.clear()
            for name, module in model.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):  # it takes no such hooks
                    enter, leave = (hook(prefix + name, module is model) for hook in (self._enter, self._leave))
                    module.register_forward_pre_hook(enter, with_kwargs=True)
                    module.register_forward_hook(leave, with_kwargs=True)
            return self

        dry_run(model, image, watch=watch)
        self._alive.clear()

    def _enter(self, name: str, is_root: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if is_root:  # its input is the image
                for tensor in _tensors((args, kwargs)):
                    self._record(tensor, "the image", [], False, NCHW if tensor.dim() == 4 else None)
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in self._current:
                    self._current[id(tensor)].consumers.append(name)
            if args and id(args[0]) in self._current:
                self._current[id(args[0])].entered.append(name)
            self._starts.append(len(self.nodes))

        return hook

    def _leave(self, name: str, is_root: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            sources = self._sources((args, kwargs))
            for tensor in _tensors(output) if sources else []:
                if id(tensor) not in self._current:  # made by code that the trace cannot see
                    self._record(tensor, type(module).__name__, sources, True, NCHW if tensor.dim() == 4 else None)
            node = self._current.get(id(output)) if isinstance(output, Tensor) else None
            self.calls.setdefault(name, []).append(Call(self._starts.pop(), len(self.nodes), node))
            if node is not None:
                node.owners.append(name)
            if is_root:
                self.outputs = self._sources(output)

        return hook

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        results = _tensors(args[0] if getattr(func, "__name__", "") == "__setitem__" else output)
        sources = self._sources((args, kwargs)) if results else []
        if not sources:
            return output
        operation = Operation(func, args, kwargs or {})
        op = f"{operation.name}()"
        for source in sources:
            source.consumers.append(op)
        mixes = operation.mixes_places
        source_axes = [source.axes for source in sources if len(source.shape) == 4]
        last_map = next((source.last_map for source in sources if source.last_map), None)
        for tensor in results:
            self._record(tensor, op, sources, mixes, follow(operation, tensor.shape, source_axes, last_map))
        return output

    def within(self, *parts: str) -> "Flow":
        """This flow until the first of `parts` that takes the image returns; the whole flow if none takes it."""
        names = [name for name in parts if len(self.calls.get(name, [])) == 1 and name in self.nodes[0].entered]
        if not names:
            return self
        part = copy.copy(self)
        part.nodes, part.outputs = self.nodes[: self.calls[names[0]][0].end], []
        return part

    def _sources(self, values: Any) -> list[Node]:
        return [self._current[id(t)] for t in _tensors(values) if id(t) in self._current]

    def _record(self, tensor: Tensor, op: str, sources: list[Node], mixes: bool, axes: Axes) -> None:
        shape = tuple(tensor.shape)
        before = next((source for source in sources if source.last_map), None)
        last_map = FeatureMap(sizes_of(shape, axes), axes) if axes else before.last_map if before else None
        stride = before.stride if before else 1
        if before and axes:
            stride = _stride(before, sizes_of(shape, axes)[1])
        is_layer = bool(sources) and (not op.endswith("()") or "conv" in op or "linear" in op)
        learned = is_layer or any(source.learned for source in sources)
        node = Node(len(self.nodes), shape, op, sources, mixes, axes, last_map, stride, learned)
        self.nodes.append(node)
        self._alive.append(tensor)
        self._current[id(tensor)] = node


def _refuse_volumes(model: nn.Module) -> None:
    need_module(model)
    kinds = {type(module) for module in model.modules()}
    if nn.Conv3d in kinds and nn.Conv2d not in kinds:
        raise ValueError(
            f"{type(model).__name__} works on volumes or videos (its convolutions are Conv3d), which are not "
            "supported: attention and its placement need feature maps (N, C, H, W)"
        )


def trace(model: nn.Module, image: Image | None) -> Flow:
    """Trace the flow through `model`; of a torchvision detector, which takes lists of images, only the backbone."""
    prefix = _backbone_of_detector(model)
    if not prefix:
        return Flow(model, image)
    size = image_shape(model, image)
    return Flow(model.get_submodule(prefix), size[1:], f"{prefix}.")


def trace_for(model: nn.Module, names: Sequence[str], image: Image | None) -> Flow:
    """Like `trace`, but the whole detector runs if one of the modules `names` lies outside its backbone."""
    prefix = _backbone_of_detector(model)
    outside = prefix and not all(name.startswith(prefix) for name in names)
    return Flow(model, image) if outside else trace(model, image)


def calls(model: nn.Module, names: Sequence[str], image: Image | None) -> Counter[str]:
    """How often each module runs in the forward pass of `trace_for`, by name."""
    return Counter({name: len(calls) for name, calls in trace_for(model, names, image).calls.items()})


def run_by_intermediates(model: nn.Module, image: Image | None) -> set[str]:
    """The modules that run in timm's `forward_intermediates`, which `features_only=True` also uses.

    Empty for a network without this method.
    """
    if not hasattr(model, "forward_intermediates"):
        return set()
    ran: set[str] = set()

    def watch() -> contextlib.AbstractContextManager[None]:
        ran.clear()
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_pre_hook(lambda *_, name=name: ran.add(name))
        return contextlib.nullcontext()

    dry_run(model, image, method="forward_intermediates", watch=watch)
    return ran


def _backbone_of_detector(model: nn.Module) -> str:
    """The name of the part of a torchvision detector that takes the image; "" for other models."""
    if not any(cls.__module__.startswith("torchvision.models.detection") for cls in type(model).__mro__):
        return ""
    parts = dict(model.named_modules())
    return next((name for name in ("backbone.body", "backbone.features", "backbone") if name in parts), "")


def _stride(before: Node, height: int) -> int:
    """The stride of a map of `height` made from `before`: a whole multiple or fraction of the earlier stride.

    The ratio is rounded, because convolutions without padding lose the borders.
    """
    old_height = before.map[1]
    if 0 in (old_height, height) or old_height >= height:
        return before.stride * round(old_height / max(1, height))
    return max(1, round(before.stride / round(height / old_height)))


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if type(values) in _ATOMS:
        return []
    if type(values) in (tuple, list, dict):  # faster than torch's pytree, which knows all containers
        parts = values.values() if isinstance(values, dict) else values
        return [tensor for part in parts for tensor in _tensors(part)]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


_ATOMS = {int, float, bool, str, type(None), torch.Size, torch.dtype, torch.device}
