"""The optimiser and its learning rate."""

import math

import torch
from torch import nn

from bam.recipes import Recipe


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD for the parameters that are not frozen; on a GPU, one fused kernel.

    With `decay_weights_only`, only parameters with two or more axes get weight decay.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": parameters, "weight_decay": recipe.weight_decay}]
    if recipe.decay_weights_only:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    nesterov = recipe.nesterov and recipe.momentum > 0
    fused = all(p.is_cuda for p in parameters) or None  # None: torch chooses
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of optimisation step `step`, counted from 0."""
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "step":
        return recipe.lr * recipe.gamma ** sum(step >= share * total for share in recipe.milestones)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
