"""BatchNorms folded into the layers before them, for inference."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from bam.attention.batchnorm import BatchNorm, normalize_by_running_statistics
from bam.private import forward_hooks

#: A module that holds a layer and the BatchNorm after it, and the names of these two in it.
Pair = tuple[nn.Module, str, str]


def fold(pairs: Sequence[Pair]) -> None:
    """Fold each BatchNorm into the layer before it, all or none, in place; `nn.Identity` takes its place.

    The new layers are others than the old ones, which may belong to another module, too. Nothing is folded where hooks,
    parametrizations or layers of other types make the output.
    """
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
    """One layer that computes both, in float32 at least and kept in the type of the layer."""
    assert isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(norm, BatchNorm | nn.SyncBatchNorm)
    narrow = layer.weight.dtype
    wide = torch.promote_types(narrow, torch.float32)
    layer, norm = copy.deepcopy(layer).to(wide), copy.deepcopy(norm).to(wide)
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm).to(narrow)
    return fuse_conv_bn_eval(layer, norm).to(narrow)
