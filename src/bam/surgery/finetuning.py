"""Fine-tuning attention on a pretrained backbone: parameter groups, extending an optimizer, freezing."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bam.attention.batchnorm import freeze_statistics
from bam.private import NormBase
from bam.snapshot import all_or_nothing
from bam.surgery.insertion import attended


def attention_groups(
    model: nn.Module, *, lr: float | None = None, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer with the attention alone: one with weight decay, one without.

    Scalars and vectors (the identity scalar, biases, BatchNorms) get no weight decay. None means the optimizer's
    default.

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


def extend_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, *, lr: float | None = None, weight_decay: float | None = None
) -> int:
    """Add the attention's parameters to an optimizer that was built before `bam.attach`.

    Args:
        optimizer: it keeps its state and groups; the new parameters get their own groups.
        model: the model with attention.
        lr: learning rate of the attention; default: the optimizer's.
        weight_decay: weight decay of the attention's weights; default: the optimizer's.

    Returns: the number of parameter tensors added. Parameters already in the optimizer are skipped, so a second call
        returns 0.

    Raises:
        ValueError: if the model carries no attention, or the optimizer already has a learning-rate scheduler.
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    groups = attention_groups(model, lr=lr, weight_decay=weight_decay)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in known]
    new = [group for group in groups if group["params"]]
    if new and "initial_lr" in optimizer.param_groups[0]:
        raise ValueError(
            "a learning-rate scheduler was built on this optimizer (its groups hold initial_lr): extend the optimizer "
            "first, then build the scheduler; if that scheduler is gone, delete initial_lr from optimizer.param_groups"
        )
    before = len(optimizer.param_groups)
    try:
        for group in new:
            optimizer.add_param_group(group)
    except BaseException:
        del optimizer.param_groups[before:]
        raise
    return sum(len(group["params"]) for group in new)


def freeze_backbone(model: nn.Module, *, trainable: Sequence[str] = (), frozen: bool = True) -> nn.Module:
    """Freeze `model`, in place, except its attention and the modules in `trainable` (e.g. a new classifier).

    Frozen parameters get no gradient. Frozen BatchNorms use their running statistics and do not update them, even
    after `model.train()`. Each call starts from an unfrozen model; `frozen=False` unfreezes everything. Returns
    `model`.

    Raises:
        ValueError: if `trainable` names a missing module, or nothing would be left to train.
    """
    trained = set(_parameters(model).values()) if attended(model) else set()
    unfrozen = {part for module in attended(model).values() for part in module.modules()}
    for name in [trainable] if isinstance(trainable, str) else trainable:
        if name not in dict(model.named_modules()):
            names = ", ".join(child for child, _ in model.named_children())
            raise ValueError(f"trainable: the model has no module {name!r}; choose from {names}, or a module inside")
        trained |= set(model.get_submodule(name).parameters())
        unfrozen |= set(model.get_submodule(name).modules())
    if frozen and not trained:
        raise ValueError("nothing would be left to train: attach attention first, or name modules in trainable=")
    with all_or_nothing(model):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter in trained or not frozen)
        for module in model.modules():
            if isinstance(module, NormBase):
                freeze_statistics(module, frozen and module not in unfrozen)
                module.train(model.training)
    return model


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    modules = attended(model)
    if not modules:
        raise ValueError("the model carries no attention: call bam.attach(model) first")
    return {f"{site}.{name}": p for site, module in modules.items() for name, p in module.named_parameters()}
