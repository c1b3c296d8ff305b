"""Check that an exported file computes the same outputs as the network."""

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
#: five torchvision networks at 224 x 224: fp32 1.2e-6, fp16 9e-4. Measured for int8: resnet18 with random statistics
#: 0.03 at the calibrated size and 0.07 at other sizes, trained cifar/resnet8 0.07 (test error 13.9 -> 14.2 %).
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.15}

ADVICE = 'pass a larger image= to trace, or fewer dynamic axes, e.g. dynamic=("batch",)'


@dataclass(frozen=True)
class Check:
    """How the file's outputs differ from the network's on the same images."""

    shape: Shape  #: (N, C, H, W)
    images: int  #: number of images in all batches
    difference: float  #: largest absolute difference of an output
    relative: float  #: largest difference as a share of the largest output
    agreement: float | None  #: share of images with the same top-1 class; None unless the output is one (N, classes)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        top1 = "" if self.agreement is None else f", top-1 agrees on {100 * self.agreement:.1f} %"
        return f"{self.images} images as {size}: differs by {self.difference:.2g} ({self.relative:.2g} relative){top1}"


def images_at(shape: Shape, examples: Tensor | None, device: torch.device) -> list[Tensor]:
    """Batches of `shape` (N, C, H, W): full batches of the resized `examples`, or one batch of normal noise."""
    if examples is None:
        return [torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)]
    resized = F.interpolate(examples, shape[2:], mode="bilinear")
    return [batch.to(device) for batch in resized.split(shape[0]) if len(batch) == shape[0]]


def compare(model: nn.Module, run: Callable[[Tensor], Any], batches: Sequence[Tensor]) -> Check:
    """Compare the outputs of `run` with those of `model`, in eval mode, for `batches` (N, C, H, W).

    All batches have the same shape. Outputs are tensors, or tensors nested in tuples, lists and dicts.

    Raises:
        ValueError: if `run` fails on the images, or its outputs have different shapes.
    """
    differences, shares, agreements = [], [], []
    for images in batches:
        expected = _tensors(model(images))
        try:
            actual = _tensors(run(images))
        except REFUSALS as error:
            raise ValueError(f"the file fails on images {tuple(images.shape)}: {reason(error)}; {ADVICE}") from error
        shapes = [[tuple(leaf.shape) for leaf in leaves] for leaves in (expected, actual)]
        if shapes[0] != shapes[1]:
            problem = f"for images {tuple(images.shape)} the file's outputs have shapes {shapes[1]}"
            raise ValueError(f"{problem}, but the network's have {shapes[0]}; {ADVICE}")
        for left, right in zip(expected, actual, strict=True):
            differences.append((left.double() - right.double()).abs().max())
            shares.append(differences[-1] / left.double().abs().max().clamp(min=1e-30))
        if len(expected) == 1 and expected[0].dim() == 2:
            agreements.append(expected[0].argmax(1) == actual[0].argmax(1))
    return Check(
        shape=tuple(batches[0].shape),
        images=sum(map(len, batches)),
        difference=float(torch.stack(differences).max()),  # Tensor.max() propagates NaN
        relative=float(torch.stack(shares).max()),
        agreement=float(torch.cat(agreements).double().mean()) if agreements else None,
    )


def _tensors(output: Any) -> list[Tensor]:
    return [leaf.cpu() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def gather(images: Tensor | Iterable[Tensor]) -> Tensor:
    """Batches of images as one tensor (N, C, H, W), float32 on the CPU in the default layout, which traces depend on.

    Raises:
        ValueError: unless the batches are tensors (N, C, H, W) of one image size.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    kinds = sorted(
        {str(tuple(batch.shape[1:])) if isinstance(batch, Tensor) else type(batch).__name__ for batch in batches}
    )
    if len(kinds) != 1 or not isinstance(batches[0], Tensor) or batches[0].dim() != 4:
        raise ValueError(f"calibration: pass image batches (N, C, H, W) of one size, got {', '.join(kinds) or 'none'}")
    return torch.cat([batch.detach().float().cpu() for batch in batches]).contiguous()
