"""The carrier of attention: the module at a site, whose class changes to a subclass that also runs the attention.

So state-dict keys, names of parameters and modules, and `isinstance` stay the same for every tool. torch changes the
class of a module in place for the same reason: `nn.utils.parametrize` makes `ParametrizedLinear`, `fully_shard` makes
`FSDPLinear`.
"""

import functools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from bam.attention.batchnorm import freeze_statistics, is_frozen, is_norm
from bam.attention.contract import not_scriptable, takes_place
from bam.attention.spec import SiteSpec
from bam.private import NormBase

_STATE = ("attention_before", "attention_axes", "attention_enabled", "attention_spec")
#: The attribute of the attention that holds its carrier's state, for when it moves to another carrier.
_CARRIED = "attention_carried"
_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}  #: plain class -> its attended subclass


class Attended(nn.Module):
    """A module whose child `attention` refines its output (or its first argument).

    It is never constructed: `carry` changes the class of an existing module to a subclass of this class and its own.

    Attributes:
        attention: the attention module, which keeps the shape (N, C, H, W).
        attention_before: whether it refines the first argument, not the output.
        attention_axes: "NCHW", or "NHWC" for a feature map (N, H, W, C).
        attention_enabled: whether the attention runs.
        attention_spec: the specification it was built from.
    """

    attention: nn.Module
    attention_before: bool
    attention_axes: str
    attention_enabled: bool
    attention_spec: SiteSpec

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """attention(module(...)), or module(attention(...), ...), or the attention instead of a convolution."""
        if self.attention_enabled and takes_place(self.attention):
            return self.attention(args[0] if args else kwargs["input"], weight=self.weight, bias=self.bias)
        return self._refined_output(super().forward(*self._refined_arguments(args), **kwargs))

    def __setattr__(self, name: str, value: Any) -> None:
        own = name == "forward" and isinstance(value, MethodType) and value.__self__ is self
        if own and type(self).forward is Attended.forward is not value.__func__:
            value = functools.partial(_attended_way, self, value)  # as Ultralytics' `fuse` and `export` do
        super().__setattr__(name, value)

    def _refined_arguments(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._refine(args[0]), *args[1:]) if self.attention_enabled and self.attention_before else args

    def _refined_output(self, output: Any) -> Any:
        return self._refine(output) if self.attention_enabled and not self.attention_before else output

    def _refine(self, features: Tensor) -> Tensor:
        if self.attention_axes == "NHWC":
            return self.attention(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.attention(features)

    def __prepare_scriptable__(self) -> nn.Module:
        raise not_scriptable()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as the plain class and rebuild the attended one: a class made at run time has no name to pickle."""
        reduced: Any = super().__reduce_ex__(max(2, protocol))
        function, arguments, *rest = reduced
        if arguments and arguments[0] is type(self) and "_plain_class" in vars(type(self)):
            function, arguments = _new, (plain_class(type(self)),)
        return function, arguments, *rest


class _AttendedSequential(Attended, nn.Sequential):
    """A sequence with the attention as one more module, for code that iterates over it (timm's checkpointing)."""

    _counts_attention = True  #: whether the attention counts as a module of the sequence

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the modules of the sequence and the attention by the sequence's own forward pass."""
        return super(Attended, self).forward(*args, **kwargs)

    def _plain_modules(self) -> list[nn.Module]:
        return [module for module in super(Attended, self).__iter__() if module is not self.attention]

    def __iter__(self) -> Iterator[nn.Module]:
        """The modules and, if it is enabled, the attention, in the order they run."""
        if not (self.attention_enabled and self._counts_attention):
            return iter(self._plain_modules())
        refine = _Permuted(self.attention) if self.attention_axes == "NHWC" else self.attention
        return iter([refine, *self._plain_modules()] if self.attention_before else [*self._plain_modules(), refine])

    def __len__(self) -> int:
        """The number of modules, including the attention if it is enabled."""
        return len(self._plain_modules()) + (self.attention_enabled and self._counts_attention)

    def __getitem__(self, key: Any) -> Any:
        """A module, or a plain sequence for a slice."""
        modules = list(self)
        return nn.Sequential(*modules[key]) if isinstance(key, slice) else modules[key]

    def __setitem__(self, key: int, module: nn.Module) -> None:
        """Replace a module of the sequence; raises IndexError at the position of the attention."""
        names = [name for name, child in self._modules.items() if child is not self.attention]
        if self.attention_enabled and self._counts_attention:
            names.insert(0 if self.attention_before else len(names), "attention")
        name = names[range(len(names))[key]]
        if name == "attention":
            raise IndexError(f"position {key} of this sequence is its attention: remove it with bam.detach(model)")
        setattr(self, name, module)


class _AttendedOwnSequence(_AttendedSequential):
    """A sequence with its own forward pass, which may iterate over itself: it lists only its plain modules."""

    _counts_attention = False
    forward = Attended.forward


class _AttendedChildren(Attended):
    """A module whose forward pass runs its children in turn (timm's RegNet): the attention is one of them."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the children and the attention by the module's own forward pass."""
        return super(Attended, self).forward(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The children in the order they run; stand-ins let `train`, `apply` and `to` reach the attention."""
        children = [pair for pair in super().named_children() if pair[1] is not self.attention]
        refine: nn.Module = self.attention
        if not self.attention_enabled:
            refine = _Skipped(self.attention)
        elif self.attention_axes == "NHWC":
            refine = _Permuted(self.attention)
        children.insert(0 if self.attention_before else len(children), ("attention", refine))
        return iter(children)


class _AttendedWithTap(Attended):
    """A block with a second forward method, which also returns an inner map (timm's aligned Xception)."""

    def forward_with_tap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The refined output and the inner map."""
        plain: Any = super()
        output, tap = plain.forward_with_tap(*self._refined_arguments((x,)))
        return self._refined_output(output), tap

    def prune_to_tap(self) -> None:
        """Drop the layers after the inner map, and attention to the output with them."""
        plain: Any = super()
        plain.prune_to_tap()
        if not self.attention_before:
            release(self)


class _AttendedDict(Attended):
    """A module dictionary whose forward pass iterates over itself (DenseNet's): it lists only its plain modules."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def keys(self) -> Any:
        """The names of the plain modules."""
        return self._plain_modules().keys()

    def values(self) -> Any:
        """The plain modules."""
        return self._plain_modules().values()

    def items(self) -> Any:
        """The plain modules with their names."""
        return self._plain_modules().items()

    def _plain_modules(self) -> dict[str, nn.Module | None]:
        return {name: module for name, module in self._modules.items() if module is not self.attention}


class _Skipped(nn.Module):
    """Stand-in for attention that is switched off, for code that runs the parts of a stage."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def __call__(self, features: Tensor) -> Tensor:
        return self.forward(features)  # torch.fx refuses to call a module that the network does not hold

    def forward(self, features: Tensor) -> Tensor:
        return features


class _Permuted(_Skipped):
    """Stand-in for attention to maps (N, H, W, C), for code that runs the parts of a stage."""

    def forward(self, features: Tensor) -> Tensor:
        return self.attention(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _attended_way(module: Attended, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `method`, which replaced the forward pass of `module` and ignores attention, with the attention."""
    return module._refined_output(method(*module._refined_arguments(args), **kwargs))


def carry(module: nn.Module, attention: nn.Module, spec: SiteSpec, *, before: bool = False, axes: str = "NCHW") -> None:
    """Make `module` carry `attention`, in place."""
    _carry(module, attention, dict(zip(_STATE, (before, axes, True, spec), strict=True)))


def _carry(module: nn.Module, attention: nn.Module, state: dict[str, Any]) -> None:
    _follow_replaced_layers()
    module.__class__ = _attended_class(type(module))
    module.__dict__.update(state)
    object.__setattr__(attention, _CARRIED, state)
    module.attention = attention
    if "forward" in vars(module):
        module.forward = vars(module)["forward"]


def release(module: nn.Module) -> None:
    """Remove the attention from a module, in place; the module is then as it was before `carry`."""
    plain, attention = plain_class(type(module)), module.attention
    assert isinstance(attention, nn.Module)
    attention.__dict__.pop(_CARRIED, None)
    del module.attention
    for name in _STATE:
        del module.__dict__[name]
    module.__class__ = plain
    forward = vars(module).get("forward")
    if isinstance(forward, functools.partial) and forward.func is _attended_way:
        module.forward = forward.args[1]


def plain_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that a module had before it carried attention.

    Raises:
        ValueError: if the class has been changed since.
    """
    if "_plain_class" not in vars(cls):
        raise ValueError(
            f"{cls.__name__} is not a class made by bam.attach: undo later changes to the module first (parametrize?)"
        )
    return vars(cls)["_plain_class"]


def _attended_class(cls: type[nn.Module]) -> type[nn.Module]:
    if cls in _CLASSES:
        return _CLASSES[cls]
    used = set(getattr(getattr(cls.forward, "__code__", None), "co_names", ()))
    base: type[Attended] = Attended
    if issubclass(cls, nn.Sequential):
        base = _AttendedSequential if cls.forward is nn.Sequential.forward else _AttendedOwnSequence
    elif issubclass(cls, nn.ModuleDict):
        base = _AttendedDict
    elif used & {"children", "named_children"}:
        base = _AttendedChildren
    elif hasattr(cls, "forward_with_tap"):
        base = _AttendedWithTap
    namespace = {"_plain_class": cls, "__module__": cls.__module__, "__doc__": cls.__doc__}
    _CLASSES[cls] = type(f"Attended{cls.__name__}", (base, cls), namespace)
    return _CLASSES[cls]


def _new(cls: type[nn.Module]) -> nn.Module:
    """An attended module without its state, which copying or unpickling then fills in."""
    _follow_replaced_layers()
    attended = _attended_class(cls)
    return attended.__new__(attended)


@functools.cache
def _follow_replaced_layers() -> None:
    """Keep attention at its site, from now on, when the normalisation layer that carries it is replaced.

    Converters such as `SyncBatchNorm.convert_sync_batchnorm` make a new layer and copy at most the children, which
    would lose the attention silently. torch calls this hook for each module that is registered in another one.
    """
    register_module_module_registration_hook(_move_to_new_layer)


def _move_to_new_layer(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    if name == "attention" and _CARRIED in getattr(new, "__dict__", {}) and not isinstance(parent, Attended):
        assert new is not None
        if is_norm(parent):
            _carry(parent, new, new.__dict__[_CARRIED])
    old = parent._modules.get(name)
    if not (isinstance(old, Attended) and is_norm(old)) or new is None or isinstance(new, Attended):
        return
    if old not in new.modules():  # unless it wraps the layer
        _carry(new, old.attention, {key: old.__dict__[key] for key in _STATE})
        if is_frozen(new) or is_frozen(old):
            for part in old.attention.modules():
                if isinstance(part, NormBase):
                    freeze_statistics(part, is_frozen(new))
