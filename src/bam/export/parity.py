"""Checking that an exported file computes what the network computes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bam.export.reasons import REFUSALS, reason
from bam.export.sizes import Shape
from bam.private import tree_leaves

#: Precision -> largest allowed difference, as a share of the largest output. Measured with BAM and identity=True in
#: five of torchvision's networks at 224 x 224: fp32 1.2e-6, fp16 9e-4. Measured for int8: resnet18 with random
#: statistics 0.03 at the calibrated size and 0.07 at others, trained cifar/resnet8 0.07 (test error 13.9 -> 14.2 %).
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.15}

ADVICE = 'pass a larger image= to trace, or fewer dynamic axes, e.g. dynamic=("batch",)'


@dataclass(frozen=True)
class Check:
    """How the file's outputs differ from the network's on the same images."""

    shape: Shape  #: (N, C, H, W)
    images: int  #: their number in all batches
    difference: float  #: largest absolute difference of an output
    relative: float  #: the same as a share of the largest output
    agreement: float | None  #: share of images with the same top-1 class; None unless the output is one (N, classes)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        top1 = "" if self.agreement is None else f", top-1 agrees on {100 * self.agreement:.1f} %"
        return f"{self.images} images as {size}: differs by {self.difference:.2g} ({self.relative:.2g} relative){top1}"


def images_at(shape: Shape, examples: Tensor | None, device: torch.device) -> list[Tensor]:
    """Batches of `shape` (N, C, H, W): the `examples`, resized, in full batches; without any, one of normal noise."""
    if examples is None:
        return [torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)]
    resized = F.interpolate(examples, shape[2:], mode="bilinear")
    return [batch.to(device) for batch in resized.split(shape[0]) if len(batch) == shape[0]]


def compare(model: nn.Module, run: Callable[[Tensor], Any], batches: Sequence[Tensor]) -> Check:
    """Compare the outputs of `run` with those of `model`, which is in eval mode, for `batches` (N, C, H, W).

    All batches have one shape. Outputs are tensors or any nesting of tensors in tuples, lists and dicts.

    Raises:
        ValueError: if `run` refuses the images, or its outputs have other shapes.
    """
    differences, shares, agreed = [], [], []
    for images in batches:
        expected = _tensors(model(images))
        try:
            actual = _tensors(run(images))
        except REFUSALS as error:
            raise ValueError(f"the file refuses images {tuple(images.shape)}: {reason(error)}; {ADVICE}") from error
        shapes = [[tuple(leaf.shape) for leaf in leaves] for leaves in (expected, actual)]
        if shapes[0] != shapes[1]:
            problem = f"for images {tuple(images.shape)} the file's outputs have shapes {shapes[1]}"
            raise ValueError(f"{problem}, the network's {shapes[0]}; {ADVICE}")
        for left, right in zip(expected, actual, strict=True):
            differences.append((left.double() - right.double()).abs().max())
            shares.append(differences[-1] / left.double().abs().max().clamp(min=1e-30))
        if len(expected) == 1 and expected[0].dim() == 2:
            agreed.append(expected[0].argmax(1) == actual[0].argmax(1))
    return Check(
        shape=tuple(batches[0].shape),
        images=sum(map(len, batches)),
        difference=float(torch.stack(differences).max()),  # max() of a tensor keeps a NaN
        relative=float(torch.stack(shares).max()),
        agreement=float(torch.cat(agreed).double().mean()) if agreed else None,
    )


def _tensors(output: Any) -> list[Tensor]:
    return [leaf.cpu() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def gather(images: Tensor | Iterable[Tensor]) -> Tensor:
    """Batches of images as one tensor (N, C, H, W), float32 on the CPU in the default layout: a trace depends on it.

    Raises:
        ValueError: unless they are tensors (N, C, H, W) of one size.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    kinds = sorted(
        {str(tuple(batch.shape[1:])) if isinstance(batch, Tensor) else type(batch).__name__ for batch in batches}
    )
    if len(kinds) != 1 or not isinstance(batches[0], Tensor) or batches[0].dim() != 4:
        raise ValueError(f"calibration: pass image batches (N, C, H, W) of one size, got {', '.join(kinds) or 'none'}")
    return torch.cat([batch.detach().float().cpu() for batch in batches]).contiguous()
