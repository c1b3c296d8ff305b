"""How images with boxes are read and augmented: `data_options` of the data sets in `bam.data.BOXES`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from bam.data.files.options import ReadingOptions, is_one_of, is_whole


@dataclass(frozen=True)
class BoxOptions(ReadingOptions):
    """Options of a data set with boxes, besides those of `ReadingOptions`.

    Attributes:
        augmentation: augmentation of training images: "flip" mirrors each with probability 1/2; "ssd" also changes
            colours, zooms out and crops around objects, as in SSD's paper; "none" leaves them unchanged.
        train: name of the split to train on; default: the data set's own.
        test: name of the split to test on; default: the data set's own.
        num_train: train on only the first `num_train` images, to try things out; default: all.
        num_test: test on only the first `num_test` images, to try things out; default: all.
        invalid: "stop" at a box without area in its image, or "drop" it; COCO's train2017 has a few.
        exif: "ignore" EXIF orientation: boxes refer to the stored pixels; or "turn" images as EXIF says: boxes refer to
            the turned images.
        classes: names of the classes in order of label; default: VOC's 20, or those in COCO's file.
    """

    augmentation: str = "flip"
    train: str | None = None
    test: str | None = None
    num_train: int | None = None
    num_test: int | None = None
    invalid: str = "stop"
    exif: str = "ignore"
    classes: Sequence[str] | None = None

    TITLE: ClassVar[str] = "boxes"
    EXAMPLE: ClassVar[str] = '{"augmentation": "ssd"}'

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        super().__post_init__()
        augmentations = ("none", "flip", "ssd")
        self._check("augmentation", is_one_of(self.augmentation, augmentations), '"none", "flip" or "ssd"')
        for name in ("train", "test"):
            value = getattr(self, name)
            self._check(name, value is None or (isinstance(value, str) and value != ""), "the name of a split")
        for name in ("num_train", "num_test"):
            value = getattr(self, name)
            self._check(name, value is None or is_whole(value, 1), "a number of images, at least 1")
        self._check("invalid", is_one_of(self.invalid, ("stop", "drop")), '"stop" or "drop"')
        self._check("exif", is_one_of(self.exif, ("ignore", "turn")), '"ignore" or "turn"')
        valid = self.classes is None or _are_distinct_names(self.classes)
        self._check("classes", valid, 'a list of distinct names, e.g. ["cat", "dog"]')


def _are_distinct_names(values: Any) -> bool:
    if not isinstance(values, list | tuple) or not values:
        return False
    return all(isinstance(value, str) and value for value in values) and len(set(values)) == len(values)
