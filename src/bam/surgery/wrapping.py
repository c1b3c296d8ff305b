"""Models wrapped for compiling or for several devices."""

from torch import nn

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
    """Raise ValueError if `model` is wrapped for compiling or several devices; `verb` names the refused action."""
    wrapper = next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in _WRAPPERS), None)
    if wrapper is not None:
        inner = _WRAPPERS[wrapper]
        advice = f"{verb} model.{inner}, and wrap it again" if inner else f"{verb} the model before wrapping it"
        raise ValueError(f"the model is wrapped in {wrapper}: {advice}")
