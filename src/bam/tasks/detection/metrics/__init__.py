"""Detection metrics: PASCAL VOC's average precision, COCO's twelve metrics, and COCO's file formats."""

from bam.tasks.detection.metrics.coco import coco_metrics
from bam.tasks.detection.metrics.detections import Detections
from bam.tasks.detection.metrics.results import coco_ground_truth, coco_results
from bam.tasks.detection.metrics.voc import average_precision, mean_average_precision, voc_average_precision

__all__ = [
    "Detections",
    "average_precision",
    "coco_ground_truth",
    "coco_metrics",
    "coco_results",
    "mean_average_precision",
    "voc_average_precision",
]
