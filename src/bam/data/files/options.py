"""Options of data sets in files: parsed by name and checked."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

_LONGEST = 8192  #: a mistyped size must not exhaust memory
A_SIDE = f"a number of pixels, at most {_LONGEST}"


@dataclass(frozen=True)
class ReadingOptions:
    """How image files are read: the options that all data sets in files share.

    Attributes:
        workers: processes that decode images; 0 decodes in the training process itself. Default: 0 for a small data set
            or for training on a CPU; otherwise one per core, minus one for the training process, at most 16. The number
            does not affect the batches.
        unreadable: "stop" at a damaged image, or "skip" it: leave it out of its batch, count it and report it.
    """

    workers: int | None = None
    unreadable: str = "stop"

    #: Name of the data set in messages, and an example of its options.
    TITLE: ClassVar[str]
    EXAMPLE: ClassVar[str]

    @classmethod
    def read(
        cls, options: Mapping[str, Any], title: str = "", *, extra: Collection[str] = (), unused: Collection[str] = ()
    ) -> Self:
        """Build options from names and values.

        Args:
            options: name -> value.
            title: name of the data set in messages; default: `TITLE`.
            extra: names of further options, which the data set reads itself; messages list them.
            unused: names of options that the data set does not have.

        Raises:
            ValueError: for an unknown name or an invalid value.
        """
        shared = {field.name for field in dataclasses.fields(ReadingOptions)}
        names = sorted((field.name for field in dataclasses.fields(cls)), key=shared.__contains__)  # shared ones last
        names = [*extra, *(name for name in names if name not in unused)]
        unknown = ", ".join(sorted(set(options) - set(names)))
        if unknown:
            raise ValueError(
                f"{title or cls.TITLE}: there is no option {unknown}; the options are {', '.join(names)}. "
                f"To replace the recipe's data options: --data-options '{cls.EXAMPLE}'"
            )
        return cls(**options)

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        self._check("workers", self.workers is None or is_whole(self.workers, 0), "a number of processes")
        self._check("unreadable", is_one_of(self.unreadable, ("stop", "skip")), '"stop" or "skip"')

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"{self.TITLE}: {name} must be {expected}; got {getattr(self, name)!r}")


def is_whole(value: Any, least: int) -> bool:
    """Whether `value` is a whole number of at least `least`."""
    return type(value) is int and value >= least


def is_side(value: Any, least: int = 1) -> bool:
    """Whether `value` is a valid side of an image, in pixels."""
    return is_whole(value, least) and value <= _LONGEST


def is_one_of(value: Any, values: Collection[str]) -> bool:
    """Whether `value` is one of the strings `values`."""
    return isinstance(value, str) and value in values


def are_numbers(values: Any, count: int) -> bool:
    """Whether `values` is a list or tuple of `count` finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)
