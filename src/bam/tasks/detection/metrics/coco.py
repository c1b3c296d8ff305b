"""COCO's average precision and recall, <https://cocodataset.org/#detection-eval>, computed by faster_coco_eval."""

from collections.abc import Sequence
from typing import Any

from bam.data.boxes import Objects
from bam.tasks.detection.metrics.detections import Detections, check_sets
from bam.tasks.detection.metrics.results import coco_ground_truth, coco_results

# In the order of COCO's tool.
_NAMES = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def coco_metrics(
    truth: Sequence[Objects], detections: Sequence[Detections], sizes: Sequence[tuple[int, int]], classes: Sequence[str]
) -> dict[str, float]:
    """COCO's twelve metrics, from 0 to 1; NaN if there is no object to detect (COCO's tool says -1).

    - "ap": average precision, averaged over the classes and the IoUs 0.5, 0.55, ..., 0.95; "ap50" and "ap75": at one
      IoU; "ap_small" (up to 32 x 32 pixels), "ap_medium" (up to 96 x 96) and "ap_large": by the areas of the objects.
    - "ar1", "ar10", "ar100": recall, averaged likewise, with at most that many detections per image and class (100 for
      all other metrics); "ar_small", "ar_medium", "ar_large" by area.

    Ignored objects count as crowds: an unmatched detection does not count if the share of its area inside a crowd of
    its class reaches the IoU threshold.

    Args:
        truth: the objects of each image.
        detections: the detections in each image, in the same order.
        sizes: (height, width) of each image in pixels.
        classes: class names, starting with label 1.

    Nothing is printed or written.

    Raises:
        ValueError: for different numbers of images, labels out of range, or detections that are not finite.
        ImportError: without faster_coco_eval.
    """
    coco, evaluation = _tool()
    check_sets(truth, detections, len(classes))
    images, categories = range(1, len(truth) + 1), range(1, len(classes) + 1)
    annotated = coco_ground_truth(truth, images, [str(i) for i in images], sizes, classes, categories)
    results = [
        {**result, "id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for number, result in enumerate(coco_results(detections, images, categories), start=1)
    ]
    # The tool's loadRes would build the same, but also logs and adds polygons.
    data_sets = (coco(content, print_function=_silent) for content in (annotated, annotated | {"annotations": results}))
    tool = evaluation(*data_sets, iouType="bbox", print_function=_silent)
    tool.run()
    values = (float(value) for value in tool.stats)
    return {name: value if value >= 0 else float("nan") for name, value in zip(_NAMES, values, strict=True)}


def _tool() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        message = "COCO's metrics need faster_coco_eval: pip install 'bottleneck-attention[detect]'"
        raise ImportError(message) from None
    return COCO, COCOeval_faster


def _silent(*_: object) -> None:
    """Replaces the tool's logger."""
