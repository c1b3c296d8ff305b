"""Boxes in float32, whatever precision the network computes in."""

from typing import Any

import torch
from torch import Tensor, nn

from bam.private import tree_map_only
from bam.tasks.detection.detectors import DetectorModule


def predict_in_float32(detector: DetectorModule) -> None:
    """Make a detector's heads return float32 under autocast, in place.

    torchvision computes boxes in the dtype of the heads' output. In bfloat16, coordinates beyond 256 pixels have steps
    of two and many scores tie.
    """
    heads = [getattr(detector, "head", None), getattr(getattr(detector, "rpn", None), "head", None)]
    heads.append(getattr(getattr(detector, "roi_heads", None), "box_predictor", None))
    for head in heads:
        if isinstance(head, nn.Module):
            head.register_forward_hook(in_float32)


def in_float32(module: nn.Module, inputs: Any, predicted: Any) -> Any:
    """Forward hook: cast floating-point outputs to float32."""
    return tree_map_only(Tensor, lambda value: value.float() if torch.is_floating_point(value) else value, predicted)
