"""How good detections are: PASCAL VOC's average precision, COCO's twelve numbers, and COCO's files."""

from bam.detection.metrics.coco import coco_metrics
from bam.detection.metrics.detections import Detections
from bam.detection.metrics.results import coco_ground_truth, coco_results
from bam.detection.metrics.voc import average_precision, mean_average_precision, voc_average_precision

__all__ = [
    "Detections",
    "average_precision",
    "coco_ground_truth",
    "coco_metrics",
    "coco_results",
    "mean_average_precision",
    "voc_average_precision",
]
