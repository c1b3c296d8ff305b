"""The carrier of attention: a module of the network and its attention module, under one name."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from bam.attention.spec import AttentionSpec, SiteSpec
from bam.attention.table import attention_name


class Attended(nn.Module):
    """`base` followed by `attention` (or preceded by it, with `before`), under the names of `base`.

    In state dicts, the parameters of `base` keep their keys, and those of the attention module are `attention.*` beside
    them, so plain checkpoints load into attended networks and back. Attribute access reaches through to `base`. An
    attended `nn.Sequential` iterates over its modules and the attention, so code that runs a stage by iteration (timm's
    gradient checkpointing) runs the attention too.

    Args:
        base: the module whose output (or first argument) is refined.
        attention: a module that keeps the shape (N, C, H, W).
        before: refine the first argument of `base`, not its output.
        axes: "NCHW", or "NHWC" for a feature map (N, H, W, C).
        spec: how `attention` was built.
    """

    def __init__(
        self,
        base: nn.Module,
        attention: nn.Module,
        *,
        before: bool = False,
        axes: Literal["NCHW", "NHWC"] | str = "NCHW",
        spec: SiteSpec | None = None,
    ) -> None:
        super().__init__()
        self.base: Any = base
        self.attention = attention
        # Unique names, because attribute access reaches through to `base`.
        self.attention_before, self.attention_axes, self.attention_enabled = before, axes, True
        self.attention_spec = spec or SiteSpec(AttentionSpec(attention_name(type(attention))), 0)
        self.training = base.training
        self.attention_prefix = ""
        self.register_state_dict_post_hook(_hide_base)
        self.register_load_state_dict_pre_hook(_restore_base)
        self.register_load_state_dict_post_hook(_hide_base_in_report)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """attention(base(...)), or base(attention(...), ...)."""
        if not self.attention_enabled:
            return self.base(*args, **kwargs)
        if self.attention_before:
            return self.base(self._refine(args[0]), *args[1:], **kwargs)
        return self._refine(self.base(*args, **kwargs))

    def _refine(self, features: Tensor) -> Tensor:
        if self.attention_axes == "NHWC":
            return self.attention(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.attention(features)

    def __getattr__(self, name: str) -> Any:
        """An attribute of this module, else of `base`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute on `base` if only `base` has it (timm switches stages that way), else on this module."""
        base = self.__dict__.get("_modules", {}).get("base")
        is_own = base is None or name in self.__dict__ or name in self._modules or hasattr(type(self), name)
        if is_own or not hasattr(base, name):
            super().__setattr__(name, value)
        else:
            setattr(base, name, value)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """This module, its parts, and the parts of `base` under the names they have without attention.

        Parameter names follow these names, so rules (timm's layer decay) and optimizer states by name still work.
        `base` itself stays `base`, because torch.fx calls modules by name.
        """
        memo = set() if memo is None else memo
        whole = len(prefix) + len("base.") + bool(prefix)
        for name, module in super().named_modules(memo, prefix, remove_duplicate):
            inner = self._is_container and name.startswith(f"{prefix}.base." if prefix else "base.")
            yield (f"{prefix}{'.' if prefix else ''}{name[whole:]}" if inner else name), module

    def _fqn_modifiers(self) -> dict[str, str]:
        """Tells torch.distributed.checkpoint which name the state-dict hooks remove from the keys."""
        return {"": "base"} if self._is_container else {}

    @property
    def _is_container(self) -> bool:
        """Whether `base` has only sub-modules; its own tensors would need the name `base.weight`."""
        return not (self.base._parameters or self.base._buffers or "base" in self.base._modules)

    def __getitem__(self, key: Any) -> Any:
        """A module of the sequence, or `base[key]`."""
        return nn.Sequential(*self)[key] if self._is_sequence else self.base[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Replace a module of the sequence, or set `base[key]`.

        Raises:
            IndexError: if `key` is the position of the attention.
        """
        if self._is_sequence and isinstance(key, int):
            index = range(len(self))[key]
            if index == (0 if self.attention_before else len(self.base)):
                raise IndexError(f"index {key} of this sequence is its attention: bam.detach(model) removes it")
            key = index - self.attention_before
        self.base[key] = value

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the modules of the sequence, or over `base`."""
        if not self._is_sequence:
            return iter(self.base)
        refine = _Permuted(self.attention) if self.attention_axes == "NHWC" else self.attention
        return iter([refine, *self.base] if self.attention_before else [*self.base, refine])

    def __len__(self) -> int:
        """The number of items in the iteration."""
        return len(self.base) + self._is_sequence

    @property
    def _is_sequence(self) -> bool:
        """Whether the attention counts as one more module of a sequence."""
        return isinstance(self.base, nn.Sequential) and self.attention_enabled

    def __bool__(self) -> bool:
        """A module is always true, even if `base` has no length."""
        return True


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()` as without attention: lists each `Attended` in place of its `base`."""
    modules = list(model.named_modules())
    bases = {module.base for _, module in modules if isinstance(module, Attended)}
    yield from ((name, module) for name, module in modules if module not in bases)


class _Permuted(nn.Module):
    """Attention for features (N, H, W, C), used when iterating over a stage."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, features: Tensor) -> Tensor:
        return self.attention(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _hide_base(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    hidden, shown = f"{prefix}base", prefix.rstrip(".")
    versions = getattr(state, "_metadata", {})  # also keeps the hidden names, which load_state_dict looks up
    for entries in (state, versions):
        for key in [key for key in entries if key == hidden or key.startswith(hidden + ".")]:
            value = entries[key] if entries is versions else entries.pop(key)
            entries[f"{shown}{key[len(hidden) :]}".lstrip(".")] = value


def _restore_base(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    module.attention_prefix = prefix  # for _hide_base_in_report, which does not receive it
    for key in [key for key in state if key.startswith(prefix) and not key.startswith(f"{prefix}attention.")]:
        state[f"{prefix}base.{key[len(prefix) :]}"] = state.pop(key)


def _hide_base_in_report(module: Any, report: Any) -> None:
    hidden, shown = f"{module.attention_prefix}base.", module.attention_prefix
    for keys in (report.missing_keys, report.unexpected_keys):
        keys[:] = [shown + key.removeprefix(hidden) if key.startswith(hidden) else key for key in keys]
