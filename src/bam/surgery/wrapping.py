"""Models that somebody has wrapped: for compiling, for several devices."""

from torch import nn

#: A class that wraps a network -> the attribute that is the network itself, if there is one.
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "module",
    "FSDPModule": "",
    "OptimizedModule": "_orig_mod",
    "ScriptModule": "",
}


def refuse_wrapped(model: nn.Module, verb: str) -> None:
    """Raise ValueError if `model` is wrapped for compiling or for several devices; `verb` is what was to be done."""
    wrapper = next((cls.__name__ for cls in type(model).__mro__ if cls.__name__ in _WRAPPERS), None)
    if wrapper is not None:
        inner = _WRAPPERS[wrapper]
        advice = f"{verb} model.{inner}, and wrap it again" if inner else f"{verb} the model before wrapping it"
        raise ValueError(f"the model is wrapped in {wrapper}: {advice}")
