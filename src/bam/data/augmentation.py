"""Augmentation of training images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training images, in this order. Folders also crop at random, see `FolderOptions`.

    Attributes:
        crop_padding: pad by this many pixels of the mean colour and crop at random; 0 for no crops.
        flip: mirror each image with probability 1/2.
        trivial: apply one random operation of random strength to each image (TrivialAugment, arXiv 2103.10158).
        erasing: probability of erasing a random rectangle of each image (arXiv 1708.04896).
    """

    crop_padding: int = 0
    flip: bool = False
    trivial: bool = False
    erasing: float = 0.0

    def after_cropping(self, mean: Sequence[float]) -> Callable[[Tensor], Tensor] | None:
        """TrivialAugment and erasing as one transform of uint8 pixels (3, H, W); None if both are off.

        Args:
            mean: mean of each channel, from 0 to 255; fills erased rectangles and uncovered borders.
        """
        if not (self.trivial or self.erasing):
            return None
        from torchvision.transforms import InterpolationMode, v2  # data sets in memory do not need it otherwise

        colour = [round(value) for value in mean]
        transforms: list[Callable[[Tensor], Tensor]] = []
        if self.trivial:
            transforms.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR, fill=colour))
        if self.erasing:
            transforms.append(v2.RandomErasing(self.erasing, value=colour))
        return v2.Compose(transforms)


NO_AUGMENTATION = Augmentation()
