"""What happens to training images before a network sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, in this order; folders are cropped at random besides, see `FolderOptions`.

    Attributes:
        crop_padding: pad by this many pixels of the mean colour and crop at random; 0 for no crops.
        flip: mirror each image with probability 1/2.
        trivial: apply one random operation of random strength to each image (TrivialAugment, arXiv 2103.10158).
        erasing: probability with which a random rectangle of an image is erased (arXiv 1708.04896).
    """

    crop_padding: int = 0
    flip: bool = False
    trivial: bool = False
    erasing: float = 0.0

    def after_cropping(self, mean: Sequence[float]) -> Callable[[Tensor], Tensor] | None:
        """TrivialAugment and erasing, on pixels uint8 (3, H, W); None if there is neither.

        Args:
            mean: of each channel, from 0 to 255: the colour of what is erased or moved in.
        """
        if not (self.trivial or self.erasing):
            return None
        from torchvision.transforms import InterpolationMode, v2  # which plain data sets do not need

        colour = [round(value) for value in mean]
        transforms: list[Callable[[Tensor], Tensor]] = []
        if self.trivial:
            transforms.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR, fill=colour))
        if self.erasing:
            transforms.append(v2.RandomErasing(self.erasing, value=colour))
        return v2.Compose(transforms)


NO_AUGMENTATION = Augmentation()
