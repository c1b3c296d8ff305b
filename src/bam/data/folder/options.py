"""How the images of a folder are cut, normalised and read: `data_options` of "folder:PATH"."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FolderOptions:
    """Options of a folder of images.

    Attributes:
        size: side of the square images that are served, in pixels.
        resize: what the shorter side is scaled to before the centre is cut out for testing; default: size * 256 / 224.
        scale: least and greatest share of the area that a training crop covers.
        ratio: least and greatest width of a training crop, in heights.
        workers: processes that decode; 0 decodes in the training process itself. Default: none for a small set or
            where the network trains on the CPU, else one for each core but that of the training process, 16 at most.
        unreadable: "stop" at a damaged image, or "skip" it: it is left out of its batch, counted and told.
        val_share: of a folder without train/ and val/: the share of each class that is kept for testing; default: 0.2.
        mean: of each channel, from 0 to 1; default: ImageNet's.
        std: of each channel, from 0 to 1; default: ImageNet's.
    """

    size: int = 224
    resize: int | None = None
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    workers: int | None = None
    unreadable: str = "stop"
    val_share: float | None = None
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    @classmethod
    def read(cls, options: dict[str, Any]) -> "FolderOptions":
        """The options given by name.

        Raises:
            ValueError: for a name that is none, or a value that cannot be meant.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = ", ".join(sorted(set(options) - set(names)))
        if unknown:
            what = f"folder: there is no option {unknown}; there are {', '.join(names)}"
            raise ValueError(
                f"""{what}. Give those that you want in place of the recipe's: --data-options '{{"size": 224}}'"""
            )
        return cls(**options)

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        _check("size", self.size, _whole(self.size, 1), "a number of pixels")
        fits = self.resize is None or (_whole(self.resize, 1) and self.resize >= self.size)
        _check("resize", self.resize, fits, f"a number of pixels, at least size, which is {self.size}")
        fits = _numbers(self.scale, 2) and 0 < self.scale[0] <= self.scale[1] <= 1
        _check("scale", self.scale, fits, "the least and the greatest share of an image's area, e.g. [0.08, 1]")
        fits = _numbers(self.ratio, 2) and 0 < self.ratio[0] <= self.ratio[1]
        _check("ratio", self.ratio, fits, "the least and the greatest width of a crop, in heights, e.g. [0.75, 1.33]")
        _check("workers", self.workers, self.workers is None or _whole(self.workers, 0), "a number of processes")
        _check("unreadable", self.unreadable, self.unreadable in ("stop", "skip"), '"stop" or "skip"')
        fits = self.val_share is None or (_numbers([self.val_share], 1) and 0 < self.val_share < 1)
        _check("val_share", self.val_share, fits, "a share between 0 and 1, e.g. 0.2")
        fits = _numbers(self.mean, 3) and all(0 <= value <= 1 for value in self.mean)
        _check("mean", self.mean, fits, "three numbers from 0 to 1")
        fits = _numbers(self.std, 3) and all(0 < value <= 1 for value in self.std)
        _check("std", self.std, fits, "three numbers above 0, up to 1")

    @property
    def shorter_side(self) -> int:
        """What the shorter side is scaled to for testing, in pixels."""
        return self.resize or round(self.size * 256 / 224)


def _check(name: str, value: Any, fits: bool, meaning: str) -> None:
    if not fits:
        raise ValueError(f"folder: {name} must be {meaning}; got {value!r}")


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _numbers(values: Any, count: int) -> bool:
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)
