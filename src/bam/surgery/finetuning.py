"""Training attention beside a pretrained backbone: parameter groups, an optimizer that exists already, freezing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bam.attention import named_modules
from bam.surgery.insertion import attended


def attention_groups(
    model: nn.Module, *, lr: float | None = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups of the attention alone, for a torch optimizer: the weights, and what should not decay.

    Scalars and vectors (the identity scalar, biases, normalisation) get no weight decay. What is None is left to the
    optimizer's defaults.

        torch.optim.SGD([{"params": backbone}, *bam.attention_groups(model, lr=0.1, weight_decay=1e-4)], lr=0.01)

    Raises:
        ValueError: if the model carries no attention.
    """
    parameters = list(_parameters(model).values())
    common = {} if lr is None else {"lr": lr}
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], **common, **decay},
        {"params": [p for p in parameters if p.ndim <= 1], **common, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def extend_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, **settings: float | None) -> int:
    """Add the attention's parameters to an optimizer that was built before attaching; those that it has are left out.

    Args:
        optimizer: keeps its state and groups; the new parameters come in groups of their own.
        model: the model with its attention.
        **settings: `lr` and `weight_decay` of the new groups, as of `attention_groups`.

    Returns: how many parameter tensors were added: 0 the second time.

    Raises:
        ValueError: if a learning-rate scheduler holds on to the optimizer's groups already.
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    groups = attention_groups(model, **settings)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in known]
    new = [group for group in groups if group["params"]]
    if new and "initial_lr" in optimizer.param_groups[0]:
        raise ValueError("a learning-rate scheduler was built on this optimizer: extend the optimizer before that")
    for group in new:
        optimizer.add_param_group(group)
    return sum(len(group["params"]) for group in new)


def freeze_backbone(model: nn.Module, *, trainable: Sequence[str] = (), frozen: bool = True) -> nn.Module:
    """Freeze all of `model` but its attention and the modules named in `trainable` (a new classifier, say).

    Frozen parameters get no gradient; frozen BatchNorms normalise by their running statistics and leave them as they
    are, also after `model.train()`. `frozen=False` undoes that for all of the backbone. Returns `model`.

    Raises:
        ValueError: for a name that is no module, or if nothing would be left to train.
    """
    kept = set(_parameters(model).values()) if attended(model) else set()
    free = {part for module in attended(model).values() for part in module.modules()}
    for name in [trainable] if isinstance(trainable, str) else trainable:
        if name not in dict(named_modules(model)):
            names = ", ".join(child for child, _ in model.named_children())
            raise ValueError(f"trainable: the model has no module {name!r}; its parts are {names}")
        kept |= set(model.get_submodule(name).parameters())
        free |= set(model.get_submodule(name).modules())
    if frozen and not kept:
        raise ValueError("nothing would be left to train: attach attention first, or name modules in trainable=")
    for parameter in model.parameters():
        if parameter not in kept:
            parameter.requires_grad_(not frozen)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module not in free:
            _freeze_statistics(module, frozen)
    return model


def _freeze_statistics(norm: _BatchNorm, frozen: bool) -> None:
    for key, hook in list(norm._forward_pre_hooks.items()):
        if hook is _normalize_by_running_statistics:
            del norm._forward_pre_hooks[key]
    if frozen:
        norm.register_forward_pre_hook(_normalize_by_running_statistics)
        norm.eval()


def _normalize_by_running_statistics(norm: nn.Module, args: Any) -> None:
    norm.training = False


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    modules = attended(model)
    if not modules:
        raise ValueError("the model carries no attention: bam.attach(model) first")
    return {f"{site}.{name}": p for site, module in modules.items() for name, p in module.named_parameters()}
