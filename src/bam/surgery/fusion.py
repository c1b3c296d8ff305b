"""Fuse a network for inference: the same attention in fewer layers."""

import copy
import warnings
from collections.abc import Sequence

from torch import nn

from bam.attention import contract
from bam.attention.attended import release
from bam.surgery.insertion import attended_modules, replace
from bam.surgery.wrapping import refuse_wrapped


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference, with the same output up to rounding: `model = bam.fuse(model.eval())`.

    Each attention module, attached or not, is replaced by its `fused()` form: a BAM folds its BatchNorms into the
    preceding layers (computed at least in float32, stored in the type of the layer). Branches with hooks or
    parametrizations stay as they are. Attached modules that are the identity are removed; for finite features the
    output stays the same bit for bit. Everything else is copied unchanged.

    Fuse last, before compiling or exporting. Folded layers have no statistics to learn, even after `.train()`, and
    different state-dict keys, so train and save `model` itself.

    Warns about attention that training did not use: modules that are the identity, and modules whose map is the same
    for every image because the last weights of their branches are zero.

    Raises:
        ValueError: if the model or an attention module is in training mode, or the model is wrapped or compiled.
    """
    refuse_wrapped(model, "fuse")
    modules = [module for _, module in contract.attention_modules(model)]
    if model.training or any(part.training for module in modules for part in module.modules()):
        raise ValueError(
            "the model is in training mode, and batch statistics cannot be folded: call model.eval() first"
        )
    fused = copy.deepcopy(model)
    dropped = []
    for site, carrier in attended_modules(fused).items():
        attention = carrier.attention
        if contract.is_identity(attention):
            release(carrier)
            dropped.append(site.label or type(attention).__name__)
    attached = [carrier.attention for carrier in attended_modules(fused).values()]
    for module in dict.fromkeys([*attached, *(module for _, module in contract.attention_modules(fused))]):
        replace(fused, module, contract.fused(module))
        fused = contract.fused(module) if module is fused else fused
    _warn(dropped, _constant(fused))
    return fused


def _constant(model: nn.Module) -> list[str]:
    """Sites (or names) of the attention modules whose map does not depend on the image."""
    names: dict[nn.Module, str] = {module: name for name, module in contract.attention_modules(model)}
    names |= {carrier.attention: site.label for site, carrier in attended_modules(model).items()}
    return [name or type(module).__name__ for module, name in names.items() if contract.is_constant(module)]


def _warn(dropped: Sequence[str], constant: Sequence[str]) -> None:
    unused = []
    if dropped:
        unused.append(f"at {', '.join(dropped)} it is the identity (scale 0) and left out of the fused copy")
    if constant:
        unused.append(f"at {', '.join(constant)} its map is the same for every image (its last weights are 0)")
    if unused:
        warnings.warn(
            f"training has not used all of the attention: {'; '.join(unused)}. Are the trained weights loaded? If so, "
            "train it longer or at a higher rate (bam.attention_groups), or attach it without these sites",
            stacklevel=3,
        )
