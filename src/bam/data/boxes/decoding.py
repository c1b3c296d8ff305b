"""Decode images at their own sizes, and augment them together with their boxes."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from bam.data.boxes.requests import BoxDecoded, BoxRequest
from bam.data.files.decoding import is_turned, read_rgb, seeded_by
from bam.pixels import IMAGENET_MEAN

_MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
_LEAST_SIDE = 4  # pixels: the smallest crop is 0.3 of a side, and must not be empty


class BoxDecoder(torch.utils.data.Dataset[BoxDecoded]):
    """Decodes requests. The augmentation of an image depends on (seed, epoch, image number) alone.

    Args:
        augmentation: "none", "flip" or "ssd", see `BoxOptions`.
        images: uint8 (n, H, W, 3); None to read files.
        turn: turn images as EXIF says.
    """

    def __init__(self, augmentation: str, images: Tensor | None, *, turn: bool = False) -> None:
        self.images, self.turn = images, turn
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
        """Decode and augment the images of a request; leave out those that cannot be used."""
        pixels: list[Tensor] = []
        boxes, labels = [torch.empty(0, 4)], [torch.empty(0, dtype=torch.int64)]
        sizes: list[tuple[int, int]] = []
        numbers: list[int] = []
        unreadable: list[tuple[str, str]] = []
        entries = zip(request.numbers, request.names, request.sizes, request.boxes, request.labels, strict=True)
        for number, name, size, box_array, label_array in entries:
            try:
                image = self._image(number, name, size)
            except ValueError as error:
                unreadable.append((name, str(error)))
                continue
            image_boxes, image_labels = torch.from_numpy(box_array), torch.from_numpy(label_array)
            if request.seed:
                with seeded_by(*request.seed, number):
                    image, image_boxes, image_labels = self._augmented(image, image_boxes, image_labels)
            values = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            pixels.append(values.flatten())
            sizes.append((values.shape[1], values.shape[2]))
            boxes.append(image_boxes)
            labels.append(image_labels)
            numbers.append(number)
        flat = torch.cat(pixels) if pixels else torch.empty(0, dtype=torch.uint8)
        counts = [len(image_boxes) for image_boxes in boxes[1:]]
        return BoxDecoded(flat, sizes, torch.cat(boxes), torch.cat(labels), counts, torch.tensor(numbers), unreadable)

    def _image(self, number: int, name: str, size: tuple[int, int]) -> Image.Image:
        if self.images is not None:
            return Image.fromarray(self.images[number].numpy())
        try:
            image = read_rgb(name, turn=self.turn)
        except ValueError as error:
            raise ValueError(f"cannot be read as an image: {error}") from None
        if (image.height, image.width) != tuple(size):
            expected = "the turned image, as the option exif says" if self.turn else "the stored pixels"
            turned = f" (EXIF turns it for display; boxes must be for {expected})" if is_turned(name) else ""
            raise ValueError(
                f"has {image.width} x {image.height} pixels, but its annotation says {size[1]} x {size[0]}{turned}"
            )
        return image

    def _augmented(self, image: Image.Image, boxes: Tensor, labels: Tensor) -> tuple[Image.Image, Tensor, Tensor]:
        canvas = (image.height, image.width)
        # Any: torchvision's type stub lacks the constructor.
        wrapped: Any = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas)
        image, sample = self.augment(image, {"boxes": wrapped, "labels": labels})
        boxes, labels = sample["boxes"].as_subclass(Tensor), sample["labels"]
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)  # rounding may close a thin box
        return image, boxes[kept], labels[kept]


class _CropAroundObjects(v2.RandomIoUCrop):
    """torchvision's crop, skipped for images without objects and for tiny images, where it would divide by 0."""

    def forward(self, *inputs: Any) -> Any:
        image, sample = inputs
        if not len(sample["boxes"]) or min(image.size) < _LEAST_SIDE:
            return inputs
        return super().forward(*inputs)
