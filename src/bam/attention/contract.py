"""The contract of attention modules: the questions that the rest of the package may ask them.

A user's own `nn.Module` need not implement it: the functions below answer for it with the defaults of
`AttentionModule`. A class that overrides `forward` gets the defaults instead of the answers that it inherits.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionMaps:
    """The attention maps of a module for features (N, C, H, W); None for maps that the module does not have."""

    gain: Tensor  #: ||F'|| / ||F|| - 1 over the channels at each place, float32 (N, H, W); see `gain`
    channel_logits: Tensor | None = None  #: (N, C, 1, 1)
    spatial_logits: Tensor | None = None  #: (N, 1, H, W)
    combined: Tensor | None = None  #: the map M, in a shape that broadcasts to the features
    displacement: Tensor | None = None  #: (N, 2, H, W): how far below and to the right of its place a value is read


@dataclass(frozen=True)
class Branch:
    """A submodule of an attention module that returns the logits of one branch."""

    module: nn.Module
    neutral: float  #: with these logits instead, the other branches alone determine the map


class AttentionModule(nn.Module):
    """A module that keeps the shape (N, C, H, W) and says how to place, cost, explain, save and fuse it.

    A subclass is built as `cls(channels, **options)` and overrides the answers that differ from these defaults.
    """

    #: The default sites, in the form of `bam.select_sites`: where its own paper puts it.
    usual_sites: ClassVar[str] = "bottlenecks"
    #: Each output value is the input value at the same place times a factor, so zeros stay zeros.
    is_pointwise: ClassVar[bool] = False
    #: A NaN in the features stays a NaN at the same place. A module that compares or clamps may lose it.
    keeps_nan: ClassVar[bool] = False
    #: It accepts `identity=True`. A new module then returns its (finite) input bit for bit and still learns, by a
    #: learned scalar `scale` that starts at 0. Without `identity`, `scale` is None.
    starts_as_identity: ClassVar[bool] = False
    #: Options that change where and how it is computed, but not the result. Saved networks leave them out.
    runtime_options: ClassVar[frozenset[str]] = frozenset({"device", "dtype"})
    #: Names of the attributes that `print(model)` shows as options.
    shown_options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fitted_options(cls, height: int, width: int) -> dict[str, Any]:
        """Options that depend on the size of the map at a site; `attach` uses them unless the user sets them."""
        return {}

    def uncounted_macs(self, output: Tensor, *, weight: Tensor | None = None) -> int:
        """Multiply-adds of one forward pass that torch's counter misses; `weight` is a replaced convolution's."""
        return 0

    @property
    def takes_place(self) -> bool:
        """Whether it replaces the convolution at its site, and is called with that layer's weight and bias."""
        return False

    def fit(self, carrier: nn.Module, *, before: bool) -> None:
        """Adapt to the module at the site, before `attach` puts the attention there."""

    def maps(self, features: Tensor) -> AttentionMaps:
        """The attention maps for features (N, C, H, W), in eval mode. The default has only the gain."""
        return AttentionMaps(gain(features, self(features)))

    def logit_branches(self) -> dict[str, Branch]:
        """The branches whose logits are combined into one map, by name; empty if the module has fewer than two."""
        return {}

    def is_identity(self) -> bool:
        """Whether the module returns its (finite) input unchanged, so that removing it changes nothing."""
        if isinstance(self, AttentionModule) and self.starts_as_identity and _applies(type(self), "starts_as_identity"):
            scale = getattr(self, "scale", None)
            return scale is not None and not scale.any()
        return isinstance(self, nn.Identity)

    def is_constant(self) -> bool:
        """Whether its map is the same for every image, because training left its last weights at zero."""
        return False

    def fused(self) -> nn.Module:
        """A copy for inference with fewer layers, or the module itself if there is nothing to fold."""
        return self

    @property
    def is_fused(self) -> bool:
        """Whether layers were folded away, so that the module cannot be saved."""
        return False

    def extra_repr(self) -> str:
        """The channels and options that `print(model)` shows."""
        options = [f"{name}={getattr(self, name)!r}" for name in self.shown_options]
        identity = ["identity=True"] if self.starts_as_identity and getattr(self, "scale", None) is not None else []
        return ", ".join([*map(str, [self.channels] if hasattr(self, "channels") else []), *options, *identity])

    def __prepare_scriptable__(self) -> nn.Module:
        raise not_scriptable()


def usual_sites(factory: Callable[..., nn.Module]) -> str:
    """The usual sites of the modules that `factory` builds, see `AttentionModule.usual_sites`."""
    cls = getattr(factory, "func", factory)  # of a partial
    return cls.usual_sites if isinstance(cls, type) and issubclass(cls, AttentionModule) else "bottlenecks"


def fitted_options(factory: Callable[..., nn.Module], height: int, width: int) -> dict[str, Any]:
    """The options of the modules that `factory` builds for a map of this size, see `AttentionModule.fitted_options`."""
    if not (isinstance(factory, type) and issubclass(factory, AttentionModule)):  # a partial has its options already
        return {}
    return factory.fitted_options(height, width)


def maps(module: nn.Module, features: Tensor) -> AttentionMaps:
    """The attention maps of `module` for features (N, C, H, W), see `AttentionModule.maps`."""
    return _method(module, "maps")(module, features)


def fit(module: nn.Module, carrier: nn.Module, *, before: bool) -> nn.Module:
    """Adapt `module` to the module at its site, see `AttentionModule.fit`; returns `module`."""
    _method(module, "fit")(module, carrier, before=before)
    return module


def takes_place(module: nn.Module) -> bool:
    """Whether `module` replaces the convolution at its site."""
    return isinstance(module, AttentionModule) and bool(module.takes_place)


def has_maps(module: nn.Module) -> bool:
    """Whether `module` defines its own maps; for other modules only the gain is known."""
    return _method(module, "maps") is not AttentionModule.maps


def logit_branches(module: nn.Module) -> dict[str, Branch]:
    """The branches of `module` whose logits are combined, see `AttentionModule.logit_branches`."""
    return _method(module, "logit_branches")(module)


def is_identity(module: nn.Module) -> bool:
    """Whether removing `module` changes nothing, see `AttentionModule.is_identity`."""
    return _method(module, "is_identity")(module)


def is_constant(module: nn.Module) -> bool:
    """Whether the map of `module` is the same for every image, see `AttentionModule.is_constant`."""
    return _method(module, "is_constant")(module)


def fused(module: nn.Module) -> nn.Module:
    """The inference form of `module`, see `AttentionModule.fused`."""
    return _method(module, "fused")(module)


def is_fused(model: nn.Module) -> bool:
    """Whether `model` is or contains an attention module with folded layers."""
    return any(module.is_fused for _, module in attention_modules(model))


def runtime_options(module: nn.Module) -> frozenset[str]:
    """The options of `module` that change where and how it is computed, but not the result."""
    return (module if isinstance(module, AttentionModule) else AttentionModule).runtime_options


def attention_modules(model: nn.Module) -> Iterator[tuple[str, AttentionModule]]:
    """All instances of `AttentionModule` in `model`, attached or not, with their names."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, AttentionModule))


def not_scriptable() -> Exception:
    """The error for `torch.jit.script` on attention modules and on networks that carry them."""
    return RuntimeError(
        "a network with attention can be traced, not scripted: use torch.jit.trace, or bam.export.export_model(model, "
        '"model.torchscript"), which traces it for any image size'
    )


def gain(features: Tensor, refined: Tensor) -> Tensor:
    """How much stronger each place became: ||F'|| / ||F|| - 1 over the channels, float32 (N, H, W).

    For BAM it is a mean of the map M(F), from 0 to 1, in which strong channels weigh more. It is 0 where F is 0.
    """
    before, after = (values.detach().float().norm(dim=1) for values in (features, refined))
    return torch.where(before > 0, after / before.clamp(min=1e-12) - 1, 0.0)


def identity_scale(identity: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Parameter | None:
    """The learned scalar that makes a new module the identity; None without `identity`."""
    return nn.Parameter(torch.zeros(1, device=device, dtype=dtype)) if identity else None


def check_counts(module: str, **counts: object) -> None:
    """Raise ValueError unless all `counts` are whole numbers of at least 1; the message names `module`."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{module}: {name} must be a whole number, at least 1, got {value!r}")


def check_step(module: str, step: float) -> float:
    """`step` as it is, if it is a finite number above 0; else ValueError, whose message names `module`."""
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step < math.inf:
        raise ValueError(f"{module}: step must be a finite number above 0, got {step!r}")
    return step


def check_features(features: Tensor, channels: int, module: str) -> None:
    """Raise unless `features` is a floating-point (N, channels, H, W) tensor; the message names `module`."""
    if features.dim() != 4 or features.shape[1] != channels:
        raise ValueError(
            f"{module} was built for a feature map (N, {channels}, H, W), got a tensor of shape {tuple(features.shape)}"
        )
    if not features.is_floating_point():
        raise TypeError(f"{module} needs floating-point features, got {features.dtype}; convert with .float() first")


def _method(module: nn.Module, name: str) -> Callable[..., Any]:
    """The module's own method, or the contract's default, which works on any module."""
    cls = type(module) if isinstance(module, AttentionModule) and _applies(type(module), name) else AttentionModule
    return getattr(cls, name)


def _applies(cls: type, name: str) -> bool:
    """Whether the answer `name` of `cls` still applies: no subclass has overridden `forward` without it."""
    answer, forward = (next(k for k, base in enumerate(cls.__mro__) if n in vars(base)) for n in (name, "forward"))
    return answer <= forward
