"""The inference form of a network: what its attention computes, with fewer layers."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bam.attention import BAM, SE
from bam.attention.bam import ChannelBranch, SpatialBranch
from bam.attention.batchnorm import BatchNorm
from bam.private import forward_hooks
from bam.surgery.finetuning import normalize_by_running_statistics
from bam.surgery.insertion import attended_modules, refuse_wrapped, replace


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference, with the same output up to rounding: `model = bam.fuse(model.eval())`.

    In each BAM, attached or placed by other means, the BatchNorms are folded into the layers before them (computed in
    float32 at least, kept in the type of the layer); branches with hooks or parametrizations stay as they are.
    Attached BAMs and SEs whose identity scale is exactly 0 are left out, which changes no bit for finite features. All
    else is copied, so that a network without attention comes back as it is.

    Fuse last, before compiling or exporting: what is folded has no statistics to learn, also after `.train()`, and has
    other state-dict keys, so train and save `model` itself.

    Warns of attention that training has not used: sites that were left out, and BAMs whose map is the same for every
    image because the last weights of their branches are zero.

    Raises:
        ValueError: if the model, or a BAM in it, is in training mode; if it is wrapped or compiled already.
    """
    refuse_wrapped(model, "fuse")
    if model.training or any(part.training for branch in _branches(model) for part in branch.modules()):
        raise ValueError(
            "the model is in training mode, whose batch statistics cannot be folded: call model.eval() first"
        )
    fused = copy.deepcopy(model)
    dropped = []
    for site, carrier in attended_modules(fused).items():
        attention: Any = carrier.attention
        if type(attention) in (BAM, SE) and attention.scale is not None and not attention.scale.any():
            replace(fused, carrier, carrier.base)
            fused = carrier.base if carrier is fused else fused
            dropped.append(site.label or type(attention).__name__)
    for branch in list(_branches(fused)):
        _fold(branch)
    _tell(dropped, _constant(fused))
    return fused


def is_fused(module: nn.Module) -> bool:
    """Whether `module` holds a BAM without the BatchNorms that it was built with."""
    return any(isinstance(branch.norm, nn.Identity) for branch in _branches(module))


def _branches(model: nn.Module) -> Iterator[ChannelBranch | SpatialBranch]:
    for module in model.modules():
        if type(module) is ChannelBranch or type(module) is SpatialBranch:
            yield module


def _fold(branch: ChannelBranch | SpatialBranch) -> None:
    """Fold the BatchNorms of `branch` into new layers; the old ones may belong to another branch, too."""
    last = "expand" if isinstance(branch, ChannelBranch) else "project"
    pairs: list[tuple[nn.Module, str, str]] = [(branch, "reduce", "norm"), (branch, last, "closing")]
    if isinstance(branch, SpatialBranch):
        pairs += [(branch.context, "0", "1"), (branch.context, "3", "4")]
    pairs = [pair for pair in pairs if type(pair[0].get_submodule(pair[2])) is not nn.Identity]
    if all(_is_foldable(parent.get_submodule(layer), parent.get_submodule(norm)) for parent, layer, norm in pairs):
        for parent, layer, norm in pairs:
            setattr(parent, layer, _folded(parent.get_submodule(layer), parent.get_submodule(norm)))
            setattr(parent, norm, nn.Identity().eval())


def _is_foldable(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether nothing but these two, as torch and this package define them, makes the output of `norm`."""
    hooks = [*forward_hooks(layer), *(h for h in forward_hooks(norm) if h is not normalize_by_running_statistics)]
    return type(layer) in (nn.Linear, nn.Conv2d) and type(norm) in (BatchNorm, nn.SyncBatchNorm) and not hooks


def _folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(norm, BatchNorm | nn.SyncBatchNorm)
    narrow = layer.weight.dtype
    wide = torch.promote_types(narrow, torch.float32)
    layer, norm = copy.deepcopy(layer).to(wide), copy.deepcopy(norm).to(wide)
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm).to(narrow)
    return fuse_conv_bn_eval(layer, norm).to(narrow)


def _constant(model: nn.Module) -> list[str]:
    """The BAMs of `model` whose map does not depend on the image, because no logit does; by site or name."""
    labels = {carrier.attention: site.label for site, carrier in attended_modules(model).items()}
    return [
        labels.get(module, name) or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, BAM) and not any(weight.any() for weight in _last_weights(module))
    ]


def _last_weights(module: BAM) -> list[torch.Tensor]:
    channel = [] if module.channel is None else [module.channel.expand.weight]
    return channel if module.spatial is None else [*channel, module.spatial.project.weight]


def _tell(dropped: list[str], constant: list[str]) -> None:
    told = []
    if dropped:
        told.append(f"at {', '.join(dropped)} it is the identity (scale 0) and left out of the fused copy")
    if constant:
        told.append(f"at {', '.join(constant)} its map is the same for every image (its last weights are 0)")
    if told:
        warnings.warn(
            f"training has not used all of the attention: {'; '.join(told)}. Are the trained weights loaded? If so, "
            "train it longer or at a higher rate (bam.attention_groups), or attach it without these sites",
            stacklevel=3,
        )
