"""Grad-CAM at the attention sites (Selvaraju et al., ICCV 2017, https://arxiv.org/abs/1610.02391)."""

import contextlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bam.explanation.passes import NOTHING_RUNS, class_logits, require_finite, undisturbed
from bam.private import uncompiled
from bam.surgery import attended


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Grad-CAM of each image's class at each site with attention: site -> float32 (N, h, w), not negative.

    L = ReLU(sum_k a_k A_k), a_k = mean of dy/dA_k over places (equations 1 and 2), where A are the refined features and
    y is the logit of the class. The network runs in eval mode; parameters get no gradients, and hooks are removed.

    Args:
        network: a classifier with attention.
        images: normalised (N, 3, H, W).
        classes: class numbers (N,).

    Raises:
        ValueError: without attention, for a network that is not a classifier, or for a map that is not finite.
    """
    network = uncompiled(network)
    modules = attended(network)
    if not modules:
        raise ValueError(f"{type(network).__name__} has no attention: attach some with bam.attach")
    features: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed(network))
        for site, module in modules.items():
            stack.callback(module.register_forward_hook(partial(_keep, features, site)).remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.enable_grad())
        # The images require a gradient, so that features have one even in a frozen network.
        logits = class_logits(network, images.detach().requires_grad_(), classes)
        if not features:
            raise ValueError(NOTHING_RUNS)
        score = logits.gather(1, classes[:, None]).sum()
        gradients = torch.autograd.grad(score, list(features.values()), allow_unused=True)
    maps = {}
    for (site, values), gradient in zip(features.items(), gradients, strict=True):
        values = values.detach().float()
        weights = torch.zeros_like(values) if gradient is None else gradient.float()
        maps[site] = (weights.mean((2, 3), keepdim=True) * values).sum(1).relu()
        require_finite(maps[site], f"Grad-CAM at {site}")
    return {site: maps[site] for site in modules if site in maps}


def _keep(features: dict[str, Tensor], site: str, module: nn.Module, inputs: Any, refined: Tensor) -> Tensor:
    features[site] = refined
    return refined.clone()  # later layers may work in place
