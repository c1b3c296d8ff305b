"""PASCAL VOC's average precision, as the development kit computes it.

Everingham et al., IJCV 2010 (section 4.2) and 2015; VOCevaldet.m and VOCap.m of
<http://host.robots.ox.ac.uk/pascal/VOC/voc2012/>.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bam.data.boxes import Objects
from bam.tasks.detection.metrics.detections import Detections, check_sets

Rule = Literal["11 points", "area"]

_ELEVEN = torch.tensor([tenths / 10 for tenths in range(11)], dtype=torch.float64)


class _Judged(NamedTuple):
    """The detections that count, in one image or all: scores, labels and whether each is correct, all (n,)."""

    scores: Tensor
    labels: Tensor
    correct: Tensor


def average_precision(recall: Tensor, precision: Tensor, rule: Rule = "area") -> float:
    """Average precision of a precision-recall curve.

    The curve has one point per detection, by descending score, so that recall never decreases. An empty curve gives 0.

    Args:
        recall: floating point (n,), share of the objects detected so far.
        precision: floating point (n,), share of the detections so far that are correct.
        rule: "11 points" (VOC 2007): the mean, over the recalls 0, 0.1, ..., 1, of the best precision at that recall or
            more. "area" (VOC 2010 to 2012): the area under the curve, each precision replaced by the best at its
            recall or more.

    A recall within rounding error of a tenth counts as that tenth. The development kit compares with 0:0.1:1, whose
    fourth value is slightly above 0.3, so that a recall of exactly 3 / 10 does not reach it there.

    Raises:
        ValueError: for another rule, or different shapes.
    """
    if rule not in ("11 points", "area"):
        raise ValueError(f'the rule must be "11 points" or "area", not {rule!r}')
    if recall.ndim != 1 or recall.shape != precision.shape:
        shapes = f"{tuple(recall.shape)} and {tuple(precision.shape)}"
        raise ValueError(f"recall and precision must be of the same shape (n,), not {shapes}")
    rounding = torch.finfo(recall.dtype).eps  # far below 1 / (10 n), the least distance of other recalls from a tenth
    recall, precision = recall.detach().cpu().double().contiguous(), precision.detach().cpu().double()
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or more
    if rule == "area":
        return float((recall.diff(prepend=recall.new_zeros(1)) * best).sum())
    first = torch.searchsorted(recall, _ELEVEN - rounding)  # n if the recall is never reached: precision 0
    return float(torch.cat([best, best.new_zeros(1)])[first].mean())


def voc_average_precision(
    truth: Sequence[Objects], detections: Sequence[Detections], num_classes: int, iou: float = 0.5, rule: Rule = "area"
) -> Tensor:
    """Average precision of each class, float64 (num_classes,) on the CPU; NaN for a class without objects.

    The detections of a class, over all images, are processed by descending score; ties keep the order of the images,
    then of the detections. Each detection is compared with the object of its image and class that has the largest IoU,
    ignored ("difficult") ones included; the first one wins a tie. Below `iou` the detection is wrong. Otherwise, if the
    object is ignored, the detection does not count; else it is correct if it is the object's first, and wrong if not,
    even if another object overlaps enough. Recall is relative to the objects that are not ignored.

    Boxes are half-open. VOC's annotations count pixels from 1, with both ends inclusive: a box (xmin, ymin, xmax, ymax)
    there is (xmin - 1, ymin - 1, xmax, ymax) here, so that plain IoU equals the development kit's IoU with "+ 1". An
    IoU equal to `iou` is enough, as in VOCevaldet.m; the well-known Python port (py-faster-rcnn) requires more.

    Args:
        truth: the objects of each image.
        detections: the detections in each image, in the same order.
        num_classes: the number of classes; labels go from 1 to this.
        iou: the minimum overlap with an object, more than 0 and at most 1.
        rule: see `average_precision`.

    Raises:
        ValueError: for different numbers of images, labels out of range, or detections that are not finite.
    """
    check_sets(truth, detections, num_classes)
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be more than 0 and at most 1, got {iou}")
    num_objects = torch.zeros(num_classes + 1, dtype=torch.int64)
    for objects in truth:
        num_objects += torch.bincount(objects.labels[~objects.ignored].cpu(), minlength=num_classes + 1)
    judged = [_judge(objects, in_image, iou) for objects, in_image in zip(truth, detections, strict=True)]
    merged = _Judged(*map(torch.cat, zip(*judged, strict=True))) if judged else _Judged(*torch.zeros(3, 0))
    return torch.tensor(
        [_class_precision(merged, label, int(num_objects[label]), rule) for label in range(1, num_classes + 1)],
        dtype=torch.float64,
    )


def mean_average_precision(per_class: Tensor) -> float:
    """Mean over the classes, ignoring NaN (classes without objects); NaN if all are NaN."""
    return float(per_class.nanmean())


def _class_precision(judged: _Judged, label: int, num_objects: int, rule: Rule) -> float:
    correct = judged.correct[judged.labels == label]
    order = judged.scores[judged.labels == label].argsort(descending=True, stable=True)
    num_correct = correct[order].double().cumsum(0)
    precision = num_correct / torch.arange(1, len(num_correct) + 1)
    value = average_precision(num_correct / max(num_objects, 1), precision, rule)
    return value if num_objects else float("nan")


def _judge(objects: Objects, detections: Detections, iou: float) -> _Judged:
    """The detections of one image that count, by descending score, and whether each is correct."""
    order = detections.scores.cpu().argsort(descending=True, stable=True)
    scores, labels = detections.scores.cpu()[order], detections.labels.cpu()[order]
    if not len(objects):
        return _Judged(scores, labels, torch.zeros(len(labels), dtype=torch.bool))
    overlaps = _overlaps(detections.boxes.cpu()[order], objects.boxes.cpu())
    overlaps = overlaps.where(labels[:, None] == objects.labels.cpu(), -1)
    best, nearest = overlaps.max(1)
    matches = (
        torch.nn.functional.one_hot(nearest, len(objects)).bool() & (best >= iou)[:, None]
    )  # (detections, objects)
    correct = (matches & (matches.cumsum(0) == 1)).any(1)
    counts = ~(matches & objects.ignored.cpu()).any(1)
    return _Judged(scores[counts], labels[counts], correct[counts])


def _overlaps(boxes: Tensor, targets: Tensor) -> Tensor:
    """IoU (n, m) of xyxy boxes (n, 4) and (m, 4) in float64, exact for whole pixels; 0 for boxes without an area."""
    boxes, targets = boxes.double()[:, None], targets.double()
    sides = torch.minimum(boxes[..., 2:], targets[..., 2:]) - torch.maximum(boxes[..., :2], targets[..., :2])
    intersection = sides.clamp(min=0).prod(-1)
    union = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (targets[..., 2:] - targets[..., :2]).prod(-1) - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)
