"""The optimiser, its learning rate, and the moving average of the weights."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bam.recipes import Recipe


def optimizer(model: nn.Module, recipe: Recipe, new_parts: Sequence[str] = ()) -> torch.optim.Optimizer:
    """SGD or AdamW for the parameters that are not frozen, as one fused kernel if torch's can update all of them.

    With `decay_weights_only`, only parameters with two or more axes get weight decay. Each group has "lr_scale", its
    factor on the learning rate.

    Args:
        model: the network.
        recipe: sets the optimiser's options.
        new_parts: names of the modules whose learning rate is multiplied by the recipe's `new_lr`.

    Raises:
        ImportError: for `layer_decay` without timm.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = _groups(parameters, _scales(model, recipe, new_parts), recipe)
    fused = all(map(_can_be_fused, parameters)) or None  # None: torch chooses
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    nesterov = recipe.nesterov and recipe.momentum > 0
    sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused)
    _begin_momentum(sgd)
    return sgd


def _can_be_fused(parameter: nn.Parameter) -> bool:
    """Whether torch's fused kernels update it correctly: they refuse complex numbers, and ignore strides."""
    channels_last = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    is_dense = parameter.is_contiguous() or channels_last
    return parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point() and is_dense


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set missing momentum to zero: torch's fused SGD fails if parameters get their first gradients at different steps,
    as those of randomly skipped layers do."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group.get("momentum") else []:
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimiser, and compare its shapes with the parameters, which torch does not.

    Raises:
        ValueError: if it belongs to other parameters.
    """
    optimizer.load_state_dict(state)
    _begin_momentum(optimizer)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"the optimizer's {name} has another shape than its parameter")


def _groups(parameters: Sequence[nn.Parameter], scales: dict[nn.Parameter, float], recipe: Recipe) -> list[Any]:
    """Groups of parameters with the same weight decay and the same factor on the learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in parameters:
        decays = parameter.ndim > 1 or not recipe.decay_weights_only
        groups.setdefault((scales.get(parameter, 1.0), decays), []).append(parameter)
    return [
        {"params": members, "weight_decay": recipe.weight_decay if decays else 0.0, "lr_scale": scale}
        for (scale, decays), members in groups.items()
    ]


def _scales(model: nn.Module, recipe: Recipe, new_parts: Sequence[str]) -> dict[nn.Parameter, float]:
    scales: dict[nn.Parameter, float] = {}
    if recipe.layer_decay < 1:
        try:
            from timm.optim import param_groups_layer_decay
        except ImportError:
            raise ImportError("layer_decay needs timm: pip install 'bottleneck-attention[timm]'") from None
        for group in param_groups_layer_decay(model, layer_decay=recipe.layer_decay):
            scales |= dict.fromkeys(group["params"], group["lr_scale"])
    for name in new_parts:
        scales |= dict.fromkeys(model.get_submodule(name).parameters(), recipe.new_lr)
    return scales


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of optimisation step `step`, counted from 0, for parameters without a factor."""
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "step":
        return recipe.lr * recipe.gamma ** sum(step >= share * total for share in recipe.milestones)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of the tensors of `model`; its decay is at most (1 + n) / (10 + n) in step n."""

    def average(mean: Tensor, value: Tensor, number: Tensor | int) -> Tensor:
        if not mean.is_floating_point():
            return value
        steps = torch.as_tensor(number, device=mean.device)  # its value is not read: that would wait for the device
        return torch.lerp(value, mean, ((1 + steps) / (10 + steps)).clamp(max=decay).to(mean.dtype))

    return AveragedModel(model, avg_fn=average, use_buffers=True)
