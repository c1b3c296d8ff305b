"""Ground truth and detections in COCO's formats, <https://cocodataset.org/#format-data> and #format-results.

Both are plain Python, ready for `json.dump`; pycocotools and faster_coco_eval read the files.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bam.data.boxes import Objects
from bam.tasks.detection.metrics.detections import Detections, check_finite, check_labels


def coco_ground_truth(
    truth: Sequence[Objects],
    image_ids: Sequence[int],
    file_names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    classes: Sequence[str],
    category_ids: Sequence[int],
) -> dict[str, Any]:
    """The content of a COCO annotation file: info, images, annotations and categories.

    Ignored objects become crowds (iscrowd 1): COCO's tool lets a crowd match any number of detections.

    Args:
        truth: the objects of each image.
        image_ids: a unique id for each image.
        file_names: the file name of each image.
        sizes: (height, width) of each image in pixels.
        classes: class names.
        category_ids: COCO's id of each class: label k is category_ids[k - 1].

    Raises:
        ValueError: for sequences of different lengths, duplicate ids, or labels without a class.
    """
    _check_ids(image_ids, "images", truth=len(truth), file_names=len(file_names), sizes=len(sizes))
    _check_ids(category_ids, "classes", classes=len(classes))
    annotations: list[dict[str, Any]] = []
    for image_id, objects in zip(image_ids, truth, strict=True):
        check_labels(objects.labels, len(classes), f"an object of image {image_id}")
        columns = (objects.labels.tolist(), _xywh(objects.boxes), objects.areas.tolist(), objects.ignored.tolist())
        for label, box, area, ignored in zip(*columns, strict=True):
            ids = {"id": len(annotations) + 1, "image_id": int(image_id), "category_id": int(category_ids[label - 1])}
            annotations.append(ids | {"bbox": box, "area": area, "iscrowd": int(ignored)})
    return {
        "info": {"description": "written by bam.tasks.detection"},
        "images": [
            {"id": int(image_id), "file_name": str(name), "height": int(height), "width": int(width)}
            for image_id, name, (height, width) in zip(image_ids, file_names, sizes, strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": int(i), "name": name} for i, name in zip(category_ids, classes, strict=True)],
    }


def coco_results(
    detections: Sequence[Detections], image_ids: Sequence[int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The content of a COCO results file: image_id, category_id, bbox (x, y, width, height), score of each detection.

    pycocotools cannot load a file without detections; faster_coco_eval can.

    Args:
        detections: the detections in each image.
        image_ids: the id of each image, as in `coco_ground_truth`.
        category_ids: label k is category_ids[k - 1].

    Raises:
        ValueError: as `coco_ground_truth`, and for detections that are not finite.
    """
    _check_ids(image_ids, "images", detections=len(detections))
    _check_ids(category_ids, "classes")
    results = []
    for image_id, in_image in zip(image_ids, detections, strict=True):
        check_labels(in_image.labels, len(category_ids), f"a detection in image {image_id}")
        check_finite(in_image, image_id)
        columns = (in_image.labels.tolist(), _xywh(in_image.boxes), in_image.scores.tolist())
        for label, box, score in zip(*columns, strict=True):
            ids = {"image_id": int(image_id), "category_id": int(category_ids[label - 1])}
            results.append(ids | {"bbox": box, "score": score})
    return results


def _xywh(boxes: Tensor) -> list[list[float]]:
    """Convert boxes (n, 4) from xyxy to lists of x, y, width and height, computed in float64."""
    corners, ends = boxes.double().split(2, dim=1)
    return torch.cat([corners, ends - corners], dim=1).tolist()


def _check_ids(ids: Sequence[int], what: str, **lengths: int) -> None:
    for name, length in lengths.items():
        if length != len(ids):
            raise ValueError(f"there are {len(ids)} ids of {what}, but {name} has {length}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"the ids of the {what} must be unique")
