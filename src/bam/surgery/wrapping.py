"""Refuse models that are wrapped for compiling or for several devices."""

from torch import nn

from bam.private import is_dispatched
from bam.snapshot import need_module

#: Wrapper class -> the attribute that holds the network itself, if any.
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "FSDPModule": "",
    "OptimizedModule": "_orig_mod",
    "ScriptModule": "",
}


def refuse_wrapped(model: nn.Module, verb: str) -> None:
    """Raise ValueError if `model` is wrapped for compiling or spread over devices; `verb` names the refused action."""
    need_module(model)
    wrapper = next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in _WRAPPERS), None)
    if wrapper is not None:
        inner = _WRAPPERS[wrapper]
        advice = f"{verb} model.{inner}, and wrap it again" if inner else f"{verb} the model before wrapping it"
        raise ValueError(f"the model is wrapped in {wrapper}: {advice}")
    if is_dispatched(model):
        raise ValueError(
            f"Accelerate has spread the model over devices (cpu_offload, disk_offload or a device map): {verb} the "
            "model before that, or call accelerate.hooks.remove_hook_from_submodules(model) first"
        )
