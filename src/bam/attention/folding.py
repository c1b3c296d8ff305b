"""Fold BatchNorms into the preceding layers, for inference."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bam.attention.batchnorm import BatchNorm, normalize_by_running_statistics
from bam.private import forward_hooks

#: (parent, name of a layer, name of the BatchNorm after it).
Pair = tuple[nn.Module, str, str]


def fold(pairs: Sequence[Pair]) -> None:
    """Fold each BatchNorm into the layer before it, in place; `nn.Identity` replaces the BatchNorm.

    Folds all pairs or none: hooks, parametrizations and other types of layers prevent it. The old layers are replaced,
    not changed, because another module may share them.
    """
    pairs = [pair for pair in pairs if type(pair[0].get_submodule(pair[2])) is not nn.Identity]
    if all(_is_foldable(parent.get_submodule(layer), parent.get_submodule(norm)) for parent, layer, norm in pairs):
        for parent, layer, norm in pairs:
            setattr(parent, layer, _folded(parent.get_submodule(layer), parent.get_submodule(norm)))
            setattr(parent, norm, nn.Identity().eval())


def _is_foldable(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether the two are plain layers of known types without hooks, and there are statistics to fold."""
    hooks = [*forward_hooks(layer), *(h for h in forward_hooks(norm) if h is not normalize_by_running_statistics)]
    if type(layer) not in (nn.Linear, nn.Conv2d) or type(norm) not in (BatchNorm, nn.SyncBatchNorm) or hooks:
        return False
    return norm.running_mean is not None


def _folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """One layer equivalent to both, computed at least in float32 and stored in the type of `layer`."""
    assert isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(norm, BatchNorm | nn.SyncBatchNorm)
    narrow = layer.weight.dtype
    wide = torch.promote_types(narrow, torch.float32)
    layer, norm = copy.deepcopy(layer).to(wide), copy.deepcopy(norm).to(wide)
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm).to(narrow)
    return fuse_conv_bn_eval(layer, norm).to(narrow)
