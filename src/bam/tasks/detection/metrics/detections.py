"""The detections in one image, and the checks that all metrics share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bam.data.boxes import Objects


@dataclass(frozen=True)
class Detections:
    """A detector's output for one image: n boxes in any order; n may be 0.

    Attributes:
        boxes: float32 (n, 4), xyxy in pixels, in the coordinates of `Objects`.
        scores: float32 (n,), higher means more confident.
        labels: int64 (n,), from 1 to the number of classes.

    Raises:
        ValueError: if the shapes do not match.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.labels.shape != (n,):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (self.boxes, self.scores, self.labels))
            raise ValueError(f"detections are boxes (n, 4), scores (n,) and labels (n,), not {shapes}")

    @classmethod
    def of(cls, output: Mapping[str, Tensor]) -> "Detections":
        """Convert the output of a torchvision detector for one image, and move it to the CPU.

        Detections of the background (label 0), which RetinaNet also returns, are dropped.
        """
        kept = output["labels"] > 0
        boxes, scores, labels = (output[name][kept].cpu() for name in ("boxes", "scores", "labels"))
        return cls(boxes.float(), scores.float(), labels)

    def __len__(self) -> int:
        """The number of detections."""
        return len(self.boxes)


def check_sets(truth: Sequence[Objects], detections: Sequence[Detections], num_classes: int) -> None:
    """Check that ground truth and detections match and are valid.

    Raises:
        ValueError: for different numbers of images, labels outside 1 to `num_classes`, or non-finite detections.
    """
    if len(truth) != len(detections):
        raise ValueError(f"the ground truth has {len(truth)} images, but the detections have {len(detections)}")
    if num_classes < 1:
        raise ValueError(f"there must be at least one class, got {num_classes}")
    for image, (objects, in_image) in enumerate(zip(truth, detections, strict=True)):
        check_labels(objects.labels, num_classes, f"an object of image {image}")
        check_labels(in_image.labels, num_classes, f"a detection in image {image}")
        check_finite(in_image, image)


def check_labels(labels: Tensor, num_classes: int, owner: str) -> None:
    """Raise ValueError, naming `owner`, if a label is outside 1 to `num_classes`."""
    invalid = labels[(labels < 1) | (labels > num_classes)]
    if len(invalid):
        raise ValueError(f"{owner} has the label {int(invalid[0])}, but classes go from 1 to {num_classes}")


def check_finite(detections: Detections, image: int) -> None:
    """Raise ValueError for a NaN or infinite score or box: it has no rank or overlap, and JSON cannot hold it."""
    if not (torch.isfinite(detections.scores).all() and torch.isfinite(detections.boxes).all()):
        raise ValueError(f"a detection in image {image} has a score or a box that is not finite")
