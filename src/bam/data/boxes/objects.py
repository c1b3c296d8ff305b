"""The objects in one image: their boxes and labels."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objects:
    """The objects in one image, n of them; n may be 0.

    Attributes:
        boxes: float32 (n, 4), xyxy in pixels: x from 0 to the width, y from 0 to the height.
        labels: int64 (n,), from 1 to the number of classes; 0 is the background.
        ignored: bool (n,), neither trained on nor scored: "difficult" objects of VOC, crowds of COCO.
        areas: float32 (n,), in square pixels; COCO's metrics use them to tell small objects from large ones.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    areas: Tensor

    @classmethod
    def of(cls, boxes: Tensor, labels: Tensor, ignored: Tensor | None = None, areas: Tensor | None = None) -> "Objects":
        """Objects from boxes and labels; by default none is ignored, and areas are those of the boxes."""
        boxes = boxes.reshape(-1, 4).float()
        none = torch.zeros(len(boxes), dtype=torch.bool)
        widths, heights = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        return cls(
            boxes, labels.long(), none if ignored is None else ignored, widths * heights if areas is None else areas
        )

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.boxes)
