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
    """Detections that count, those of one image or of all: scores, labels and whether each is right, all (n,)."""

    scores: Tensor
    labels: Tensor
    right: Tensor


def average_precision(recall: Tensor, precision: Tensor, rule: Rule = "area") -> float:
    """One number for a curve of precision over recall.

    Both are floating point (n,), after the first, second, ... of the detections in falling order of their scores, so
    that recall never falls; n may be 0, which gives 0.

    Args:
        recall: share of the objects found so far.
        precision: share of the detections so far that are right.
        rule: "11 points" (VOC 2007): the mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or
            more. "area" (VOC 2010 to 2012): the area under the curve, each precision replaced by the best at its
            recall or more.

    A recall equal to a tenth up to rounding in its own type counts as that tenth. The development kit compares with
    0:0.1:1, whose fourth value is a rounding above 0.3, so that there a recall of exactly 3 / 10 does not reach it.

    Raises ValueError for another rule, or if the two are not of one length.
    """
    if rule not in ("11 points", "area"):
        raise ValueError(f'the rule is "11 points" or "area", not {rule!r}')
    if recall.ndim != 1 or recall.shape != precision.shape:
        shapes = f"{tuple(recall.shape)} and {tuple(precision.shape)}"
        raise ValueError(f"recall and precision must be of the same shape (n,), not {shapes}")
    rounding = torch.finfo(recall.dtype).eps  # far less than 1 / (10 n), by which other recalls differ from tenths
    recall, precision = recall.detach().cpu().double().contiguous(), precision.detach().cpu().double()
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or more
    if rule == "area":
        return float((recall.diff(prepend=recall.new_zeros(1)) * best).sum())
    first = torch.searchsorted(recall, _ELEVEN - rounding)  # n where the recall is never reached: precision 0
    return float(torch.cat([best, best.new_zeros(1)])[first].mean())


def voc_average_precision(
    truth: Sequence[Objects], found: Sequence[Detections], num_classes: int, iou: float = 0.5, rule: Rule = "area"
) -> Tensor:
    """Average precision of each class, float64 (num_classes,) on the CPU; NaN for a class without objects to find.

    The detections of a class, over all images, are taken in falling order of their scores; among equal scores the
    earlier image comes first, and within an image the earlier detection. Each is held against the object of its image
    and class with the largest IoU, ignored ("difficult") ones included, the first of them if several are equal:
    if that IoU is less than `iou`, the detection is wrong; else, if the object is ignored, the detection does not
    count; else it is right the first time, and wrong every further time, even if another object overlaps enough. Recall
    is the share of the objects that are not ignored.

    Boxes are half-open. VOC's annotations are pixels from 1, both ends inclusive: a box (xmin, ymin, xmax, ymax) there
    is (xmin - 1, ymin - 1, xmax, ymax) here, for which plain IoU is what the development kit computes with "+ 1". An
    IoU equal to `iou` is enough, as in VOCevaldet.m; the well-known translation to Python (py-faster-rcnn) asks for
    more.

    Args:
        truth: the objects of each image.
        found: the detections in each image, in the same order.
        num_classes: how many classes there are; labels go from 1 to this.
        iou: the overlap from which on an object is found, more than 0 and at most 1.
        rule: see `average_precision`.

    Raises ValueError for numbers of images that differ, labels out of range and detections that are not finite.
    """
    check_sets(truth, found, num_classes)
    if not 0 < iou <= 1:
        raise ValueError(f"the overlap asked for must be more than 0 and at most 1, not {iou}")
    to_find = torch.zeros(num_classes + 1, dtype=torch.int64)
    for objects in truth:
        to_find += torch.bincount(objects.labels[~objects.ignored].cpu(), minlength=num_classes + 1)
    judged = [_judge(objects, detections, iou) for objects, detections in zip(truth, found, strict=True)]
    everything = _Judged(*map(torch.cat, zip(*judged, strict=True))) if judged else _Judged(*torch.zeros(3, 0))
    return torch.tensor(
        [_of_class(everything, label, int(to_find[label]), rule) for label in range(1, num_classes + 1)],
        dtype=torch.float64,
    )


def mean_average_precision(per_class: Tensor) -> float:
    """Mean over the classes that have objects to find: NaN are left out; NaN if all are."""
    return float(per_class.nanmean())


def _of_class(judged: _Judged, label: int, to_find: int, rule: Rule) -> float:
    right = judged.right[judged.labels == label]
    falling = judged.scores[judged.labels == label].argsort(descending=True, stable=True)
    found = right[falling].double().cumsum(0)
    precision = found / torch.arange(1, len(found) + 1)
    value = average_precision(found / max(to_find, 1), precision, rule)
    return value if to_find else float("nan")


def _judge(objects: Objects, detections: Detections, iou: float) -> _Judged:
    """Which detections of an image count, in falling order of their scores, and which of these are right.

    Objects belong to one image, so that who comes first at each of them is decided here, not among all images.
    """
    falling = detections.scores.cpu().argsort(descending=True, stable=True)
    scores, labels = detections.scores.cpu()[falling], detections.labels.cpu()[falling]
    if not len(objects):
        return _Judged(scores, labels, torch.zeros(len(labels), dtype=torch.bool))
    overlaps = _overlaps(detections.boxes.cpu()[falling], objects.boxes.cpu())
    overlaps = overlaps.where(labels[:, None] == objects.labels.cpu(), -1)
    best, which = overlaps.max(1)
    touches = torch.nn.functional.one_hot(which, len(objects)).bool() & (best >= iou)[:, None]  # (detections, objects)
    right = (touches & (touches.cumsum(0) == 1)).any(1)
    counts = ~(touches & objects.ignored.cpu()).any(1)
    return _Judged(scores[counts], labels[counts], right[counts])


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (n, m) of xyxy boxes (n, 4) and (m, 4) in float64, exact for whole pixels; 0 for boxes without an area."""
    boxes, others = boxes.double()[:, None], others.double()
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    both = sides.clamp(min=0).prod(-1)
    union = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1) - both
    return torch.where(both > 0, both / union, 0.0)
