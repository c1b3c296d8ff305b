"""How images with boxes are read and augmented: `data_options` of the data sets in `bam.data.BOXES`."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

_AUGMENTATIONS = ("none", "flip", "ssd")


@dataclass(frozen=True)
class BoxOptions:
    """Options of a data set with boxes.

    Attributes:
        augmentation: of training images. "flip" mirrors every other one; "ssd" also changes colours, zooms out and
            crops around objects, as SSD is trained; "none" leaves them.
        train: name of the split to train on; default: that of the data set.
        test: name of the split to test on; default: that of the data set.
        num_train: train on the first so many images, for trials; default: all.
        num_test: test on the first so many images, for trials; default: all.
        workers: processes that decode; 0 decodes in the training process itself. Default: none for a small set or
            where the network trains on the CPU, else one for each core but that of the training process, 16 at most.
        unreadable: "stop" at a damaged image, or "skip" it: it is left out of its batch, counted and told.
        invalid: "stop" at a box without area, or outside of its image, or "drop" it; COCO's train2017 has a few.
        classes: names of the classes in the order of their numbers; default: VOC's 20, or those that COCO's file lists.
    """

    augmentation: str = "flip"
    train: str | None = None
    test: str | None = None
    num_train: int | None = None
    num_test: int | None = None
    workers: int | None = None
    unreadable: str = "stop"
    invalid: str = "stop"
    classes: Sequence[str] | None = None

    @classmethod
    def read(
        cls, options: dict[str, Any], data: str = "boxes", *, own: Collection[str] = (), unused: Collection[str] = ()
    ) -> "BoxOptions":
        """The options given by name.

        Args:
            options: name -> value.
            data: name of the data set, for the message.
            own: names of options that the data set has besides and reads itself, for the message.
            unused: of the names here, those that the data set has no use for.

        Raises:
            ValueError: for a name that is none, or a value that cannot be meant.
        """
        names = [*own, *(field.name for field in dataclasses.fields(cls) if field.name not in unused)]
        unknown = ", ".join(sorted(set(options) - set(names)))
        if unknown:
            raise ValueError(
                f"{data}: there is no option {unknown}; there are {', '.join(names)}. Give those that you want in "
                f"""place of the recipe's: --data-options '{{"augmentation": "ssd"}}'"""
            )
        return cls(**options)

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        _check("augmentation", self.augmentation, _one_of(self.augmentation, _AUGMENTATIONS), '"none", "flip" or "ssd"')
        for name in ("train", "test"):
            value = getattr(self, name)
            _check(name, value, value is None or (isinstance(value, str) and value != ""), "the name of a split")
        for name in ("num_train", "num_test"):
            value = getattr(self, name)
            _check(name, value, value is None or _whole(value, 1), "a number of images, at least 1")
        _check("workers", self.workers, self.workers is None or _whole(self.workers, 0), "a number of processes")
        _check("unreadable", self.unreadable, _one_of(self.unreadable, ("stop", "skip")), '"stop" or "skip"')
        _check("invalid", self.invalid, _one_of(self.invalid, ("stop", "drop")), '"stop" or "drop"')
        fits = self.classes is None or _different_names(self.classes)
        _check("classes", self.classes, fits, 'a list of different names, e.g. ["cat", "dog"]')


def _check(name: str, value: Any, fits: bool, meaning: str) -> None:
    if not fits:
        raise ValueError(f"boxes: {name} must be {meaning}; got {value!r}")


def _one_of(value: Any, values: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in values


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _different_names(values: Any) -> bool:
    if not isinstance(values, list | tuple) or not values:
        return False
    return all(isinstance(value, str) and value for value in values) and len(set(values)) == len(values)
