"""Record the attention maps of a network's forward passes."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bam.attention.contract import AttentionMaps, gain, has_maps, maps, takes_place
from bam.private import uncompiled, without_hooks
from bam.surgery import attended


@contextlib.contextmanager
def record(model: nn.Module) -> Iterator[list[dict[str, AttentionMaps]]]:
    """Record the maps of each attention module in every forward pass of `model` within this context.

        with record(model) as passes:
            model(images)
        passes[0]["layer1"].spatial_logits  # (N, 1, H, W)

    The list grows by one dictionary per forward pass: site -> maps, detached, on the network's device. A module that
    does not implement the contract (`bam.attention.contract.AttentionModule`) has only its gain. Recording does not
    change the network's results by a bit, in eval or training mode or under autocast; all hooks are removed. A network
    from `torch.compile` runs uncompiled in this context. Combined maps are as large as the features: to record many
    images, take what you need from each pass and clear the list.

    Networks replicated by `nn.DataParallel` and exported or traced programs cannot be recorded.

    Raises:
        ValueError: if `model` has no attention.
    """
    model = uncompiled(model)
    modules = attended(model)
    if not modules:
        raise ValueError(f"{type(model).__name__} has no attention to record: attach some with bam.attach")
    recorder = _Recorder()
    with contextlib.ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(recorder.begin).remove)
        for site, module in modules.items():
            hooks.callback(module.register_forward_hook(partial(recorder.add, site)).remove)
        with torch.compiler.set_stance("force_eager"):
            yield recorder.passes


class _Recorder:
    def __init__(self) -> None:
        self.passes: list[dict[str, AttentionMaps]] = []
        self._begun = False

    def begin(self, *_: Any) -> None:
        self._begun = True

    def add(self, site: str, module: nn.Module, features: tuple[Tensor, ...], refined: Tensor) -> None:
        # Part of a network may be called on its own: then a site's second call starts a new pass.
        if self._begun or not self.passes or site in self.passes[-1]:
            self.passes.append({})
            self._begun = False
        self.passes[-1][site] = _observed(module, features[0].detach(), refined.detach())


@torch.no_grad()
def _observed(module: nn.Module, features: Tensor, refined: Tensor) -> AttentionMaps:
    """The maps of `module`, computed on a copy so that running statistics and random numbers do not change."""
    strength = gain(features, features if takes_place(module) else refined)
    if not has_maps(module):
        return AttentionMaps(strength)
    shadow = without_hooks(copy.deepcopy(module) if module.training else module)
    devices = [features.device] if features.is_cuda else []
    with torch.random.fork_rng(devices, enabled=module.training):
        return dataclasses.replace(maps(shadow, features), gain=strength)


def site_gains(model: nn.Module, *inputs: Any) -> dict[str, Tensor]:
    """The gain at each site in one forward pass `model(*inputs)`: site -> float32 (N, h, w), on the CPU.

    The gain is ||F'|| / ||F|| - 1 over the channels, see `bam.attention.contract.gain`; any attention module has it.
    """
    if not attended(model):
        return {}
    with record(model) as passes, torch.no_grad():
        model(*inputs)
    return {site: values.gain.cpu() for site, values in (passes[0] if passes else {}).items()}
