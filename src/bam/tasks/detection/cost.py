"""The cost of a detector."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bam.costs import Cost, cost
from bam.tasks.detection.detectors import DetectorModule

_PROPOSALS = 1000  #: regions counted for the second stage of Faster R-CNN


def input_size(detector: DetectorModule) -> tuple[int, int]:
    """A typical height and width after the detector's own resizing; the longer side is 4/3 of the shorter."""
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
    """Parameters, and multiply-adds of the dense layers for one image of `input_size`.

    The second stage of Faster R-CNN is counted for 1000 regions.
    """
    dense = cost(_Dense(detector), (3, *input_size(detector)))
    return Cost(sum(p.numel() for p in detector.parameters()), dense.macs)


class _Dense(nn.Module):
    """A detector without the steps whose cost depends on values: selection, matching, suppression."""

    def __init__(self, detector: DetectorModule) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        output: Tensor | Mapping[str, Tensor] | Sequence[Tensor] = self.detector.backbone(images)
        if isinstance(output, Mapping):
            output = list(output.values())
        maps = [output] if isinstance(output, Tensor) else output
        if not hasattr(self.detector, "rpn"):
            return self.detector.head(maps)
        heads = self.detector.roi_heads
        size = heads.box_roi_pool.output_size
        regions = images.new_zeros(_PROPOSALS, maps[0].shape[1], *size)
        return self.detector.rpn.head(maps), heads.box_predictor(heads.box_head(regions))
