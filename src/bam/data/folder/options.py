"""How the images of a folder are cropped, normalised and read: `data_options` of "folder:PATH"."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bam.data.files.options import A_SIDE, ReadingOptions, are_numbers, is_side
from bam.pixels import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class FolderOptions(ReadingOptions):
    """Options of a folder of images, besides those of `ReadingOptions`.

    Attributes:
        size: side of the square images served, in pixels.
        resize: length of the shorter side before the centre crop of test images, in pixels; default: size * 256 / 224.
        scale: smallest and largest share of the image's area that a training crop covers.
        ratio: smallest and largest aspect ratio (width / height) of a training crop.
        val_share: share of each class kept for testing, if the folder has no train/ and val/; default: 0.2.
        mean: mean of each channel, from 0 to 1; default: ImageNet's.
        std: standard deviation of each channel, from 0 to 1; default: ImageNet's.
    """

    size: int = 224
    resize: int | None = None
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    val_share: float | None = None
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    #: Whether to resize whole images to squares, in training too, instead of cropping them.
    WHOLE: ClassVar[bool] = False
    TITLE: ClassVar[str] = "folder"
    EXAMPLE: ClassVar[str] = '{"size": 224}'

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        self._check("size", is_side(self.size), A_SIDE)
        valid = self.resize is None or is_side(self.resize, self.size)
        self._check("resize", valid, f"{A_SIDE}, and at least size, which is {self.size}")
        valid = are_numbers(self.scale, 2) and 0 < self.scale[0] <= self.scale[1] <= 1
        self._check("scale", valid, "the smallest and the largest share of an image's area, e.g. [0.08, 1]")
        valid = are_numbers(self.ratio, 2) and 0 < self.ratio[0] <= self.ratio[1]
        self._check("ratio", valid, "the smallest and the largest aspect ratio of a crop, e.g. [0.75, 1.33]")
        valid = self.val_share is None or (are_numbers([self.val_share], 1) and 0 < self.val_share < 1)
        self._check("val_share", valid, "a share between 0 and 1, e.g. 0.2")
        valid = are_numbers(self.mean, 3) and all(0 <= value <= 1 for value in self.mean)
        self._check("mean", valid, "three numbers from 0 to 1")
        valid = are_numbers(self.std, 3) and all(0 < value <= 1 for value in self.std)
        self._check("std", valid, "three numbers above 0, up to 1")

    @property
    def shorter_side(self) -> int:
        """Length of the shorter side before the centre crop of test images, in pixels."""
        return self.resize or round(self.size * 256 / 224)
