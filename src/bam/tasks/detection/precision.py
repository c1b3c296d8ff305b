"""Boxes in full precision, whatever precision the network computes in."""

from typing import Any

import torch
from torch import Tensor, nn

from bam.private import tree_map_only
from bam.tasks.detection.detectors import DetectorModule


def predict_in_float32(detector: DetectorModule) -> None:
    """Make a detector's heads give float32 under autocast, in place.

    torchvision computes boxes in the type in which the heads predict them: in bfloat16, places beyond 256 pixels are
    told by steps of two, and scores come in ties.
    """
    heads = [getattr(detector, "head", None), getattr(getattr(detector, "rpn", None), "head", None)]
    heads.append(getattr(getattr(detector, "roi_heads", None), "box_predictor", None))
    for head in heads:
        if isinstance(head, nn.Module):
            head.register_forward_hook(in_float32)


def in_float32(module: nn.Module, given: Any, predicted: Any) -> Any:
    """The hook: floating-point tensors as float32."""
    return tree_map_only(Tensor, lambda value: value.float() if torch.is_floating_point(value) else value, predicted)
