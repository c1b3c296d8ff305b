"""COCO's average precision and recall, <https://cocodataset.org/#detection-eval>, computed by faster_coco_eval."""

from collections.abc import Sequence
from typing import Any

from bam.data.boxes import Objects
from bam.tasks.detection.metrics.detections import Detections, check_sets
from bam.tasks.detection.metrics.results import coco_ground_truth, coco_results

# In the order in which COCO's tool gives them.
_NAMES = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def coco_metrics(
    truth: Sequence[Objects], found: Sequence[Detections], sizes: Sequence[tuple[int, int]], classes: Sequence[str]
) -> dict[str, float]:
    """COCO's twelve numbers, as shares of 1; NaN where there is no object that could be found (the tool says -1).

    - "ap": average precision, the mean over the classes and the IoUs 0.5, 0.55, ..., 0.95; "ap50" and "ap75": at one
      IoU; "ap_small" (up to 32 x 32 pixels), "ap_medium" (up to 96 x 96) and "ap_large": by the areas of the objects.
    - "ar1", "ar10", "ar100": recall, the mean over the same, with so many detections per image and class at most (100
      for all other numbers); "ar_small", "ar_medium", "ar_large" by area.

    Ignored objects count as crowds: a detection that finds no other object does not count if as large a part of it as
    the IoU asks for lies in a crowd of its class.

    Args:
        truth: the objects of each image.
        found: the detections in each image, in the same order.
        sizes: (height, width) of each image in pixels.
        classes: the names of the classes, of labels 1, 2, ...

    Nothing is printed or written. Raises ValueError for numbers of images that differ, labels out of range and
    detections that are not finite; ImportError without faster_coco_eval.
    """
    coco, evaluation = _tool()
    check_sets(truth, found, len(classes))
    images, categories = range(1, len(truth) + 1), range(1, len(classes) + 1)
    annotated = coco_ground_truth(truth, images, [str(i) for i in images], sizes, classes, categories)
    results = [
        {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for number, result in enumerate(coco_results(found, images, categories), start=1)
    ]
    # What the tool's loadRes makes of results, but without its logger and its polygons.
    both = (coco(part, print_function=_silent) for part in (annotated, annotated | {"annotations": results}))
    tool = evaluation(*both, iouType="bbox", print_function=_silent)
    tool.run()
    values = (float(value) for value in tool.stats)
    return {name: value if value >= 0 else float("nan") for name, value in zip(_NAMES, values, strict=True)}


def _tool() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        needed = "COCO's metrics need faster_coco_eval: pip install 'bottleneck-attention[detect]'"
        raise ImportError(needed) from None
    return COCO, COCOeval_faster


def _silent(*_: object) -> None:
    """What the tool calls instead of its logger."""
