"""Find the folder of a data set."""

from collections.abc import Sequence
from pathlib import Path


def first_folder(places: Sequence[Path], advice: str) -> Path:
    """The first of `places` that is a folder.

    Raises:
        FileNotFoundError: if none is; the message names all of them and ends with `advice`.
    """
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"there is no folder {' or '.join(dict.fromkeys(map(str, places)))}; {advice}")
