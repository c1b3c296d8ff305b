"""What a detector costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bam.costs import Cost, cost
from bam.tasks.detection.detectors import DetectorModule

_PROPOSALS = 1000  #: regions of Faster R-CNN whose multiply-adds are counted


def input_size(detector: DetectorModule) -> tuple[int, int]:
    """Height and width that stand for the images as a detector resizes them; the longer side is 4/3 of the shorter."""
    transform = detector.transform
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return height, width
    short = transform.min_size[-1]
    long = min(short * 4 / 3, transform.max_size)
    return _rounded_up(short), _rounded_up(long)


def _rounded_up(side: float) -> int:
    return -(-round(side) // 32) * 32


def detector_cost(detector: DetectorModule) -> Cost:
    """Parameters, and multiply-adds of everything that is computed densely, for one image of `input_size`.

    The second stage of Faster R-CNN is counted on 1000 regions.
    """
    dense = cost(_Dense(detector), (3, *input_size(detector)))
    return Cost(sum(p.numel() for p in detector.parameters()), dense.macs)


class _Dense(nn.Module):
    """A detector without what depends on values: selecting, matching, suppressing."""

    def __init__(self, detector: DetectorModule) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        found: Tensor | Mapping[str, Tensor] | Sequence[Tensor] = self.detector.backbone(images)
        maps = list(found.values()) if isinstance(found, Mapping) else [found] if isinstance(found, Tensor) else found
        if not hasattr(self.detector, "rpn"):
            return self.detector.head(maps)
        heads = self.detector.roi_heads
        size = heads.box_roi_pool.output_size
        regions = images.new_zeros(_PROPOSALS, maps[0].shape[1], *size)
        return self.detector.rpn.head(maps), heads.box_predictor(heads.box_head(regions))
