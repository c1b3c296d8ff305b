"""The contract: what every attention module is, and what the rest of the package may ask it.

A user's own `nn.Module` need not know any of this: the functions below answer for it with the defaults of
`AttentionModule`. An answer that a class inherits counts only as long as it does not override `forward`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionMaps:
    """What a module attends to in features (N, C, H, W); None for a map that the module does not have."""

    gain: Tensor  #: ||F'|| / ||F|| - 1 over the channels at each place, float32 (N, H, W); see `gain`
    channel_logits: Tensor | None = None  #: (N, C, 1, 1)
    spatial_logits: Tensor | None = None  #: (N, 1, H, W)
    combined: Tensor | None = None  #: the map M, in a shape that broadcasts to the features
    displacement: Tensor | None = None  #: (N, 2, H, W): how far down and right of its place a value is read


@dataclass(frozen=True)
class Branch:
    """A part of an attention module whose output is the logits of one branch."""

    module: nn.Module
    neutral: float  #: with these logits in its place, the map is that of the other branches alone


class AttentionModule(nn.Module):
    """A module that keeps (N, C, H, W), with answers for placing, pricing, explaining, saving and fusing it.

    A subclass is built as `cls(channels, **options)` and overrides the answers that differ from these defaults.
    """

    #: Where its own paper puts it, as `bam.select_sites` reads it: the sites if nobody names others.
    usual_sites: ClassVar[str] = "bottlenecks"
    #: Each value of the output is the input's value at the same place times a factor, so that zeros stay zeros.
    is_pointwise: ClassVar[bool] = False
    #: A NaN in the features comes out as a NaN at its place; a module that compares or clamps may swallow it.
    keeps_nan: ClassVar[bool] = False
    #: It takes `identity=True`, with which a new module returns its (finite) input bit for bit and still learns: by a
    #: learned scalar `scale` that starts at 0, and is None without.
    starts_as_identity: ClassVar[bool] = False
    #: Options that say where and how it is computed, not what: saved networks leave them out.
    runtime_options: ClassVar[frozenset[str]] = frozenset({"device", "dtype"})
    #: Options that `print(model)` shows, by the names of their attributes.
    shown_options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fitted_options(cls, height: int, width: int) -> dict[str, Any]:
        """Options that follow the size of the map at a site, for `attach`; those that the user gives go first."""
        return {}

    def uncounted_macs(self, output: Tensor, *, weight: Tensor | None = None) -> int:
        """Multiply-adds of one forward pass that torch's counter misses; `weight` is that of a convolution replaced."""
        return 0

    @property
    def takes_place(self) -> bool:
        """Whether it computes in the place of the convolution at its site, which calls it with its weight and bias."""
        return False

    def fit(self, carrier: nn.Module, *, before: bool) -> None:
        """Adapt to the module at the site, before the attention goes there."""

    def maps(self, features: Tensor) -> AttentionMaps:
        """What the module attends to in features (N, C, H, W), in eval mode. The default knows the gain alone."""
        return AttentionMaps(gain(features, self(features)))

    def logit_branches(self) -> dict[str, Branch]:
        """The branches whose logits are combined to one map, by name; none if the module has fewer than two."""
        return {}

    def is_identity(self) -> bool:
        """Whether the module returns its (finite) input unchanged, so that leaving it out changes nothing."""
        if isinstance(self, AttentionModule) and self.starts_as_identity and _holds(type(self), "starts_as_identity"):
            scale = getattr(self, "scale", None)
            return scale is not None and not scale.any()
        return isinstance(self, nn.Identity)

    def is_constant(self) -> bool:
        """Whether it attends alike to every image, because training has left its last weights at zero."""
        return False

    def fused(self) -> nn.Module:
        """A copy for inference with fewer layers, or the module itself if there is nothing to fold."""
        return self

    @property
    def is_fused(self) -> bool:
        """Whether layers were folded away, so that no file can give the module back."""
        return False

    def extra_repr(self) -> str:
        """The channels and options that `print(model)` shows."""
        options = [f"{name}={getattr(self, name)!r}" for name in self.shown_options]
        identity = ["identity=True"] if self.starts_as_identity and getattr(self, "scale", None) is not None else []
        return ", ".join([*map(str, [self.channels] if hasattr(self, "channels") else []), *options, *identity])

    def __prepare_scriptable__(self) -> nn.Module:
        raise not_scriptable()


def usual_sites(factory: Callable[..., nn.Module]) -> str:
    """Where the modules that `factory` builds usually go, see `AttentionModule.usual_sites`."""
    cls = getattr(factory, "func", factory)  # of a partial
    return cls.usual_sites if isinstance(cls, type) and issubclass(cls, AttentionModule) else "bottlenecks"


def fitted_options(factory: Callable[..., nn.Module], height: int, width: int) -> dict[str, Any]:
    """The options of what `factory` builds for a map of that size, see `AttentionModule.fitted_options`."""
    if not (isinstance(factory, type) and issubclass(factory, AttentionModule)):  # a partial's options are given
        return {}
    return factory.fitted_options(height, width)


def maps(module: nn.Module, features: Tensor) -> AttentionMaps:
    """What `module` attends to in features (N, C, H, W), see `AttentionModule.maps`."""
    return _method(module, "maps")(module, features)


def fit(module: nn.Module, carrier: nn.Module, *, before: bool) -> nn.Module:
    """`module`, adapted to the module at its site, see `AttentionModule.fit`."""
    _method(module, "fit")(module, carrier, before=before)
    return module


def takes_place(module: nn.Module) -> bool:
    """Whether `module` computes in the place of the convolution at its site."""
    return isinstance(module, AttentionModule) and bool(module.takes_place)


def has_maps(module: nn.Module) -> bool:
    """Whether `module` itself says what it attends to; of any other, only the gain is known."""
    return _method(module, "maps") is not AttentionModule.maps


def logit_branches(module: nn.Module) -> dict[str, Branch]:
    """The branches of `module` whose logits are combined, see `AttentionModule.logit_branches`."""
    return _method(module, "logit_branches")(module)


def is_identity(module: nn.Module) -> bool:
    """Whether leaving `module` out changes nothing, see `AttentionModule.is_identity`."""
    return _method(module, "is_identity")(module)


def is_constant(module: nn.Module) -> bool:
    """Whether `module` attends alike to every image, see `AttentionModule.is_constant`."""
    return _method(module, "is_constant")(module)


def fused(module: nn.Module) -> nn.Module:
    """`module` for inference, see `AttentionModule.fused`."""
    return _method(module, "fused")(module)


def is_fused(model: nn.Module) -> bool:
    """Whether `model` is or holds an attention module whose layers were folded away."""
    return any(module.is_fused for _, module in attention_modules(model))


def runtime_options(module: nn.Module) -> frozenset[str]:
    """The options of `module` that say where and how it is computed."""
    return (module if isinstance(module, AttentionModule) else AttentionModule).runtime_options


def attention_modules(model: nn.Module) -> Iterator[tuple[str, AttentionModule]]:
    """The modules of `model` that know the contract, by name, whoever put them there."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, AttentionModule))


def not_scriptable() -> Exception:
    """What `torch.jit.script` meets, in attention modules and in networks that carry them."""
    return RuntimeError(
        "a network with attention can be traced, not scripted: use torch.jit.trace, or bam.export.export_model(model, "
        '"model.torchscript"), which traces it for any image size'
    )


def gain(features: Tensor, refined: Tensor) -> Tensor:
    """How much stronger each place became: ||F'|| / ||F|| - 1 over the channels, float32 (N, H, W).

    For BAM that is its map M(F) as the channels weigh it, from 0 to 1. It is 0 where the features are 0.
    """
    before, after = (values.detach().float().norm(dim=1) for values in (features, refined))
    return torch.where(before > 0, after / before.clamp(min=1e-12) - 1, 0.0)


def identity_scale(identity: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Parameter | None:
    """The learned scalar with which a module starts as the identity; None without `identity`."""
    return nn.Parameter(torch.zeros(1, device=device, dtype=dtype)) if identity else None


def check_counts(module: str, **counts: object) -> None:
    """Raise a ValueError unless each of `counts` is a whole number, at least 1; `module` is named in the message."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{module}: {name} must be a whole number, at least 1, got {value!r}")


def check_features(features: Tensor, channels: int, module: str) -> None:
    """Raise unless `features` is a floating-point (N, channels, H, W) tensor; `module` is named in the message."""
    if features.dim() != 4 or features.shape[1] != channels:
        raise ValueError(
            f"{module} was built for a feature map (N, {channels}, H, W), got a tensor of shape {tuple(features.shape)}"
        )
    if not features.is_floating_point():
        raise TypeError(f"{module} needs floating-point features, got {features.dtype}; convert with .float() first")


def _method(module: nn.Module, name: str) -> Callable[..., Any]:
    """The module's own method, or the contract's default, which works on any module."""
    cls = type(module) if isinstance(module, AttentionModule) and _holds(type(module), name) else AttentionModule
    return getattr(cls, name)


def _holds(cls: type, name: str) -> bool:
    """Whether what `cls` says of itself as `name` speaks of its forward pass, not of one that a subclass overrides."""
    places = [next(k for k, base in enumerate(cls.__mro__) if each in vars(base)) for each in (name, "forward")]
    return places[0] <= places[1]
