"""Put attention modules into a network, and take them out again."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from bam.attention import ATTENTION
from bam.dryrun import Image
from bam.placement import Site, describe_sites, find_bottlenecks


class Attended(nn.Module):
    """`base` followed by `attention`, under the names of `base`.

    In state dicts the parameters of `base` keep the keys they had before, and those of the attention module are
    `attention.*` beside them, so that plain checkpoints load into attended networks and back. Attributes reach through
    to `base`. As a sequence, an attended `nn.Sequential` is its modules and then the attention: whoever runs a stage by
    iterating over it (timm's gradient checkpointing) runs the attention too.
    """

    def __init__(self, base: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.base: Any = base
        self.attention = attention
        self.training = base.training
        self.loading_prefix = ""
        self.register_state_dict_post_hook(_hide_base)
        self.register_load_state_dict_pre_hook(_restore_base)
        self.register_load_state_dict_post_hook(_hide_base_in_report)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """attention(base(...))."""
        return self.attention(self.base(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        """An attribute of this module, else of `base`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def __getitem__(self, key: Any) -> Any:
        """A module of the sequence, or whatever `base` holds under `key`."""
        return nn.Sequential(*self.base, self.attention)[key] if self._is_sequence else self.base[key]

    def __iter__(self) -> Iterator[Any]:
        """The modules of the sequence, or what iterating over `base` gives."""
        return iter([*self.base, self.attention] if self._is_sequence else self.base)

    def __len__(self) -> int:
        """How many there are of them."""
        return len(self.base) + self._is_sequence

    @property
    def _is_sequence(self) -> bool:
        return isinstance(self.base, nn.Sequential)

    def __bool__(self) -> bool:
        """A module is true, also when `base` has no length."""
        return True


def _hide_base(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    for entries in (state, getattr(state, "_metadata", {})):
        hidden, shown = f"{prefix}base", prefix.rstrip(".")
        for key in [key for key in entries if key == hidden or key.startswith(hidden + ".")]:
            entries[f"{shown}{key[len(hidden) :]}".lstrip(".")] = entries.pop(key)


def _restore_base(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    module.loading_prefix = prefix  # for _hide_base_in_report, which is not told it
    for key in [key for key in state if key.startswith(prefix) and not key.startswith(f"{prefix}attention.")]:
        state[f"{prefix}base.{key[len(prefix) :]}"] = state.pop(key)


def _hide_base_in_report(module: Any, report: Any) -> None:
    hidden, shown = f"{module.loading_prefix}base.", module.loading_prefix
    for keys in (report.missing_keys, report.unexpected_keys):
        keys[:] = [shown + key.removeprefix(hidden) if key.startswith(hidden) else key for key in keys]


def attach(
    model: nn.Module,
    attention: str | Callable[..., nn.Module] = "bam",
    *,
    sites: Sequence[str | Site] | None = None,
    image: Image | None = None,
    identity: bool = False,
    **options: Any,
) -> nn.Module:
    """Put an attention module after each site of `model`, in place, and return `model`.

    Attach before building the optimizer, before `torch.compile` and before wrapping the model for several devices.
    A plain checkpoint loads before, or afterwards with `strict=False`; new keys are `<site>.attention.*`.

    Args:
        model: any CNN.
        attention: a name in `bam.ATTENTION`, or any callable `channels -> nn.Module` that keeps (N, C, H, W).
        sites: names of modules (or `Site`s); default: `find_bottlenecks(model, image)`.
        image: an image (N, C, H, W) or a size for the forward pass that measures the sites.
        identity: start with the model's own output bit for bit (passed on to the attention module).
        **options: passed on to the attention module, e.g. `reduction=8`.

    Raises:
        ValueError: for a site that does not exist, carries attention already or is no single feature map; a model
            already wrapped or compiled; an unknown attention name. The model is then unchanged.
    """
    _refuse_wrapped(model)
    build = attention_factory(attention)
    if identity:
        options["identity"] = True
    if sites is None:
        chosen = find_bottlenecks(model, image)
        for note in chosen.notes:
            warnings.warn(note, stacklevel=2)
    else:
        names = [sites] if isinstance(sites, str) else [s.name if isinstance(s, Site) else s for s in sites]
        chosen = describe_sites(model, list(dict.fromkeys(names)), image)
    bases = [model.get_submodule(site.name) for site in chosen]
    for site, base in zip(chosen, bases, strict=True):
        _refuse_occupied(site.name, base)
    made = [build(site.channels, **options) for site in chosen]  # all before the first change: all or nothing
    for base, module in zip(bases, made, strict=True):
        _replace(model, base, Attended(base, _on_device_of(module, base, model)))
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take all attention out of `model`, in place: what remains is the original. Returns `model`."""
    _refuse_wrapped(model)
    for module in [m for m in model.modules() if isinstance(m, Attended)]:
        _replace(model, module, module.base)
    return model


def attended(model: nn.Module) -> dict[str, nn.Module]:
    """The attention modules of `model` by site, in the order of its modules: {"layer1": BAM(...), ...}."""
    found: dict[str, nn.Module] = {}
    hidden: list[str] = []
    for path, module in model.named_modules():
        name = path
        for prefix in hidden:  # the name that the path had before an Attended came above it
            if path.startswith(f"{prefix}.base."):
                name = name.replace(f"{prefix}.base.", f"{prefix}.", 1)
        if isinstance(module, Attended):
            hidden.insert(0, path)
            found[name] = module.attention
    return found


def attention_factory(attention: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The class behind a name in `bam.ATTENTION`; a callable is returned as it is."""
    if not isinstance(attention, str):
        return attention
    if attention not in ATTENTION:
        raise ValueError(f"unknown attention {attention!r}; known: {', '.join(ATTENTION)}; or pass channels -> Module")
    return ATTENTION[attention]


def _on_device_of(attention: nn.Module, base: nn.Module, model: nn.Module) -> nn.Module:
    """`attention` on the device, with the floating type and in the mode of the module it follows."""
    for module in (base, model):
        like = next((p for p in module.parameters() if p.is_floating_point()), None)
        if like is not None:
            attention = attention.to(like.device, like.dtype)
            break
    return attention.train(base.training)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` hangs in `model` (a module may hang in several places)."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old and parent is not new:
                parent._modules[name] = new


def _refuse_occupied(name: str, base: nn.Module) -> None:
    if isinstance(base, Attended):
        raise ValueError(f"site {name!r} carries {type(base.attention).__name__} already; bam.detach(model) first")
    if "attention" in base._modules or "attention" in base._parameters:
        raise ValueError(
            f"site {name!r} ({type(base).__name__}) has a part named 'attention' of its own, with which the key "
            f"'{name}.attention' would collide; choose a neighbouring site"
        )


def _refuse_wrapped(model: nn.Module) -> None:
    wrappers = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule", "OptimizedModule"}
    found = next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in wrappers), None)
    if found:
        raise ValueError(f"the model is wrapped in {found}: attach or detach before wrapping it")
