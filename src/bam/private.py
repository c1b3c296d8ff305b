"""The one file that uses private APIs of torch, torchvision, timm, Accelerate and argparse, each with its reason.

Only torch is imported at the top. The carrier of attention (`attention/attended.py`) is the exception: it has its own
hooks into `nn.Module`.
"""

import contextlib
import copy
from argparse import ArgumentParser
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# The base class of BatchNorm and InstanceNorm for every number of dimensions: torch has no public name for it.
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.module import _has_any_global_hook

# torch has no public way to visit the tensors in nested lists and dictionaries.
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = [
    "NormBase", "accelerate_without_state", "changes_resolution", "cpu_has_bf16", "failure_to_compile",
    "feature_extractor", "forward_hooks", "forward_mode_is_active", "functorch_is_active", "has_compiled_code",
    "is_batched_by_autograd", "is_dispatched", "most_recompilations", "option_strings", "own_buffers", "own_modules",
    "own_parameters", "remove_forward_hooks", "remove_forward_pre_hook", "runs_as_written", "set_arguments",
    "stages_getter", "tree_leaves", "tree_map_only", "uncompiled", "without_hooks",
]  # fmt: skip

_Module = TypeVar("_Module", bound=nn.Module)


def functorch_is_active() -> bool:
    """Whether a transform of `torch.func` (vmap, grad, jvp) is running; torch has no public function for it."""
    return torch._C._are_functorch_transforms_active()


def forward_mode_is_active() -> bool:
    """Whether this is inside `forward_ad.dual_level()`; torch has no public function for it."""
    return forward_ad._current_level >= 0


def is_batched_by_autograd(tensor: Tensor) -> bool:
    """Whether `autograd.grad(..., is_grads_batched=True)` made this tensor; torch has no public function for it."""
    return torch._C._functorch.is_legacy_batchedtensor(tensor)


def failure_to_compile() -> type[Exception]:
    """What torch.compile raises if it cannot compile; torch has no public name for it."""
    from torch._dynamo.exc import TorchDynamoException  # importing the compiler takes seconds

    return TorchDynamoException


def has_compiled_code(function: Callable[..., Any]) -> bool:
    """Whether torch.compile has compiled `function`, and not been reset since; torch has no public function for it."""
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    return bool(_debug_get_cache_entry_list(function.__code__))


def most_recompilations(number: int) -> contextlib.AbstractContextManager[None]:
    """Allow so many versions of a compiled function; torch has no public option for one function."""
    from torch._dynamo import config

    return config.patch(recompile_limit=number)


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16; torch has no public function for it."""
    return torch.cpu._is_avx512_bf16_supported()


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The dictionary of `module`'s parts, to look up and replace; `named_children()` lists a shared part once."""
    return module._modules


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The dictionary of `module`'s own parameters, to look up and replace; `setattr` would refuse a plain tensor."""
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The dictionary of `module`'s own buffers, to look up and replace like parameters."""
    return module._buffers


def forward_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """The hooks before and after the forward pass of `module`; torch has no public way to list them."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def runs_as_written(module: nn.Module, cls: type[_Module]) -> TypeGuard[_Module]:
    """Whether calling `module` runs the forward pass of `cls` and nothing else, so that other code may compute it.

    False if it has hooks, for the forward or the backward pass, or its own `forward`: frameworks that move or quantise
    parameters set one. torch has no public way to list these.
    """
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    hooked = any(hooks) or _has_any_global_hook()
    return type(module) is cls and not hooked and "forward" not in module.__dict__


def without_hooks(module: nn.Module) -> nn.Module:
    """A shallow copy of `module` without its own hooks before and after the forward pass; its parts keep theirs."""
    copied = copy.copy(module)
    copied.__dict__ |= {name: OrderedDict() for name in ("_forward_pre_hooks", "_forward_hooks")}
    return copied


def uncompiled(model: nn.Module) -> nn.Module:
    """The network that `torch.compile` wrapped, or `model` itself; torch has no public name for it."""
    return getattr(model, "_orig_mod", model)


def remove_forward_hooks(module: nn.Module) -> None:
    """Remove all hooks before and after the forward pass of `module`; the public way needs their handles."""
    if not isinstance(module, torch.jit.ScriptModule):
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()


def remove_forward_pre_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Remove `hook` from `module`; the public way needs the handle, which a copied or unpickled module has lost."""
    for key, registered in list(module._forward_pre_hooks.items()):
        if registered is hook:
            del module._forward_pre_hooks[key]


def stages_getter(network: nn.Module, stages: dict[str, str]) -> nn.Module:
    """A module that returns the outputs of some stages of `network` under new names, as in torchvision's detectors.

    The public `create_feature_extractor` traces the network into another module.
    """
    from torchvision.models._utils import IntermediateLayerGetter

    return IntermediateLayerGetter(network, stages)


def changes_resolution(layer: nn.Module) -> bool:
    """Whether torchvision marks this block of a MobileNet as strided; its own detectors read the same mark."""
    return getattr(layer, "_is_cn", False)


def feature_extractor(name: str | type[nn.Module]) -> type[nn.Module]:
    """timm's class that returns the maps of a network's stages; timm exports it by these names alone.

    Args:
        name: "getter", "list", "dict", "hook" or "fx", as timm's `feature_cls`; a class is returned as it is.

    Raises:
        ValueError: for another name.
    """
    from timm.models import _features, _features_fx

    if isinstance(name, type):
        return name
    classes = {
        "getter": _features.FeatureGetterNet,
        "list": _features.FeatureListNet,
        "dict": _features.FeatureDictNet,
        "hook": _features.FeatureHookNet,
        "fx": _features_fx.FeatureGraphNet,
    }
    if name not in classes:
        raise ValueError(f"feature_cls must be one of {', '.join(classes)}, or a class; got {name!r}")
    return classes[name]


def is_dispatched(model: nn.Module) -> bool:
    """Whether Accelerate moves tensors of a module to and from its device on each call; it marks such modules."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def set_arguments(model: nn.Module, arguments: dict[str, Any]) -> None:
    """Store the arguments `model` was built with where timm looks for them when it saves; it has no public way."""
    vars(model)["_model_args"] = arguments


@contextlib.contextmanager
def accelerate_without_state() -> Iterator[None]:
    """Hide the state that Accelerate keeps for the whole process, and restore it afterwards."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds: tuple[Any, ...] = (PartialState, AcceleratorState, GradientState)
    before = [dict(kind._shared_state) for kind in kinds]
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)


def option_strings(parser: ArgumentParser) -> list[str]:
    """All flags of a parser, in every spelling; argparse has no public list of them."""
    return [flag for action in parser._actions for flag in action.option_strings]
