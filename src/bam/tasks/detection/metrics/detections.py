"""What a detector found in one image, and what all metrics ask of sets of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bam.data.boxes import Objects


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image, n boxes in any order; n may be 0.

    boxes: float32 (n, 4), xyxy in pixels, in the coordinates of `Objects`. scores: float32 (n,), larger is surer.
    labels: int64 (n,), from 1 to the number of classes.

    Raises ValueError if the three do not belong together.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        number = len(self.boxes)
        if self.boxes.shape != (number, 4) or self.scores.shape != (number,) or self.labels.shape != (number,):
            shapes = ", ".join(str(tuple(part.shape)) for part in (self.boxes, self.scores, self.labels))
            raise ValueError(f"detections are boxes (n, 4), scores (n,) and labels (n,), not {shapes}")

    @classmethod
    def of(cls, output: Mapping[str, Tensor]) -> "Detections":
        """What one of torchvision's detectors gives for an image, on the CPU.

        RetinaNet also predicts the background, as label 0, where all classes are unlikely: left out.
        """
        kept = output["labels"] > 0
        boxes, scores, labels = (output[name][kept].cpu() for name in ("boxes", "scores", "labels"))
        return cls(boxes.float(), scores.float(), labels)

    def __len__(self) -> int:
        """How many."""
        return len(self.boxes)


def check_sets(truth: Sequence[Objects], found: Sequence[Detections], num_classes: int) -> None:
    """ValueError unless both have as many images, labels are from 1 to `num_classes`, and all of `found` is finite."""
    if len(truth) != len(found):
        raise ValueError(f"the ground truth has {len(truth)} images, the detections are of {len(found)}")
    if num_classes < 1:
        raise ValueError(f"there must be a class at least, not {num_classes}")
    for image, (objects, detections) in enumerate(zip(truth, found, strict=True)):
        check_labels(objects.labels, num_classes, f"an object of image {image}")
        check_labels(detections.labels, num_classes, f"a detection in image {image}")
        check_finite(detections, image)


def check_labels(labels: Tensor, num_classes: int, whose: str) -> None:
    """ValueError, in the name of `whose`, for a label that is not from 1 to `num_classes`."""
    strange = labels[(labels < 1) | (labels > num_classes)]
    if len(strange):
        raise ValueError(f"{whose} has the label {int(strange[0])}, but classes go from 1 to {num_classes}")


def check_finite(detections: Detections, image: int) -> None:
    """ValueError for a score or box that is NaN or infinite: it has no rank, or no overlap, and JSON cannot hold it."""
    if not (torch.isfinite(detections.scores).all() and torch.isfinite(detections.boxes).all()):
        raise ValueError(f"a detection in image {image} has a score or a box that is not finite")
