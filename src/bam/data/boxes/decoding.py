"""Images as pixels of their own sizes, augmented together with their boxes."""

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from bam.data.folder.decoding import drawn_from, read_rgb

_MEAN_COLOUR = (124, 116, 104)  # of ImageNet
_LEAST_SIDE = 4  # pixels: of less, the smallest crop, 0.3 of a side, may have none


class BoxRequest(NamedTuple):
    """Images to decode, with an entry for each in every list, and the (seed, epoch) to augment them by, or None.

    Objects are numpy arrays: between processes, each tensor would take a file descriptor.
    """

    numbers: list[int]
    names: list[str]
    sizes: list[tuple[int, int]]
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    augmentation: tuple[int, int] | None


class BoxDecoded(NamedTuple):
    """What came of a request.

    pixels: the images' values one after the other, uint8 (sum of 3 H W,); sizes: (H, W) of each. boxes: float32 (m, 4),
    xyxy in pixels, and labels: int64 (m,), of all images one after the other; counts: how many are of each. numbers:
    those of the images, int64 (n,). unreadable: (name, what is wrong) of the rest.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    boxes: Tensor
    labels: Tensor
    counts: list[int]
    numbers: Tensor
    unreadable: list[tuple[str, str]]


class BoxDecoder(torch.utils.data.Dataset[BoxDecoded]):
    """Requests to pixels and boxes. The augmentation of an image depends on (seed, epoch, its number) alone.

    Args:
        augmentation: "none", "flip" or "ssd", see `BoxOptions`.
        images: uint8 (n, H, W, 3); None if names are paths of files.
    """

    def __init__(self, augmentation: str, images: Tensor | None) -> None:
        self.images = images
        self.augment = v2.Compose(
            {
                "none": [v2.Identity()],
                "flip": [v2.RandomHorizontalFlip()],
                "ssd": [
                    v2.RandomPhotometricDistort(),
                    v2.RandomZoomOut(fill=_MEAN_COLOUR),
                    _CropAroundObjects(),
                    v2.RandomHorizontalFlip(),
                    v2.SanitizeBoundingBoxes(),
                ],
            }[augmentation]
        )

    def __getitem__(self, request: BoxRequest) -> BoxDecoded:
        """Decode and augment what is asked for; what cannot be read is left out."""
        pixels, boxes, labels = [], [torch.empty(0, 4)], [torch.empty(0, dtype=torch.int64)]
        sizes: list[tuple[int, int]] = []
        read: list[int] = []
        unreadable: list[tuple[str, str]] = []
        entries = zip(request.numbers, request.names, request.sizes, request.boxes, request.labels, strict=True)
        for number, name, size, own_boxes, own_labels in entries:
            try:
                image = self._image(number, name, size)
            except ValueError as error:
                unreadable.append((name, str(error)))
                continue
            there, label = torch.from_numpy(own_boxes), torch.from_numpy(own_labels)
            if request.augmentation:
                with drawn_from(*request.augmentation, number):
                    image, there, label = self._augmented(image, there, label)
            values = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            pixels.append(values.flatten())
            sizes.append((values.shape[1], values.shape[2]))
            boxes.append(there)
            labels.append(label)
            read.append(number)
        flat = torch.cat(pixels) if pixels else torch.empty(0, dtype=torch.uint8)
        counts = [len(one) for one in boxes[1:]]
        return BoxDecoded(flat, sizes, torch.cat(boxes), torch.cat(labels), counts, torch.tensor(read), unreadable)

    def _image(self, number: int, name: str, size: tuple[int, int]) -> Image.Image:
        if self.images is not None:
            return Image.fromarray(self.images[number].numpy())
        try:
            image = read_rgb(name)
        except ValueError as error:
            raise ValueError(f"cannot be read as an image: {error}") from None
        if (image.height, image.width) != tuple(size):
            raise ValueError(
                f"has {image.width} x {image.height} pixels, but its annotation tells {size[1]} x {size[0]}"
            )
        return image

    def _augmented(self, image: Image.Image, boxes: Tensor, labels: Tensor) -> tuple[Image.Image, Tensor, Tensor]:
        canvas = (image.height, image.width)
        wrapped: Any = tv_tensors.BoundingBoxes(
            boxes, format="XYXY", canvas_size=canvas
        )  # torchvision's stub is narrow
        image, sample = self.augment(image, {"boxes": wrapped, "labels": labels})
        boxes, labels = sample["boxes"].as_subclass(Tensor), sample["labels"]
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a box may be so thin that rounding closes it
        return image, boxes[kept], labels[kept]


class _CropAroundObjects(v2.RandomIoUCrop):
    """Crops images that have something to crop around; torchvision's would divide by 0 for tiny ones."""

    def forward(self, *inputs: Any) -> Any:
        image, sample = inputs
        if not len(sample["boxes"]) or min(image.size) < _LEAST_SIDE:
            return inputs
        return super().forward(*inputs)
