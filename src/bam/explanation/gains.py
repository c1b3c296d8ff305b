"""How much the attention at each site of a network strengthens each place."""

from typing import Any

import torch
from torch import Tensor, nn

from bam.attention.contract import gain
from bam.surgery import attended


@torch.no_grad()
def site_gains(model: nn.Module, *inputs: Any) -> dict[str, Tensor]:
    """The gain at each site in one forward pass `model(*inputs)`: site -> float32 (N, h, w), on the CPU.

    It is ||F'|| / ||F|| - 1 over the channels, see `bam.attention.contract.gain`; for any attention module whatever.
    The model is left as it was, also after an exception.
    """
    gains: dict[str, Tensor] = {}

    def watch(site: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, features: tuple[Tensor, ...], refined: Tensor) -> None:
            gains[site] = gain(features[0], refined).cpu()

        return module.register_forward_hook(hook)

    handles = [watch(site, module) for site, module in attended(model).items()]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return gains
