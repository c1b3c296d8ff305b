"""Data sets of images with boxes: PASCAL VOC, MS COCO, and the digits."""

from bam.data.boxes.coco import coco
from bam.data.boxes.dataset import BoxDataset
from bam.data.boxes.digits import digits_boxes
from bam.data.boxes.objects import Objects
from bam.data.boxes.options import BoxOptions
from bam.data.boxes.voc import CLASSES as VOC_CLASSES
from bam.data.boxes.voc import voc0712, voc2007

__all__ = ["VOC_CLASSES", "BoxDataset", "BoxOptions", "Objects", "coco", "digits_boxes", "voc0712", "voc2007"]
