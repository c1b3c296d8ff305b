"""Which images of a folder belong to which class, and which of them are for training or testing."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension, make_dataset

from bam.data.files.places import first_folder

_EVALUATION = ("val", "validation", "test")  # in order of preference
_NUM_SHOWN = 5  # names in a message
_VAL_SHARE = 0.2


class ScannedImages(NamedTuple):
    """Paths of images, the class number of each, and the names of the classes."""

    paths: list[str]
    targets: list[int]
    classes: tuple[str, ...]


def locate(path: str, root: Path) -> Path:
    """The folder at `path`, or at `root`/`path`.

    Raises:
        FileNotFoundError: if neither is a folder.
        ValueError: for an empty path.
    """
    if not path:
        raise ValueError(
            "data: folder: lacks the path; write folder:PATH, for a folder that holds one folder per class"
        )
    advice = "give its path as folder:PATH, or the folder that holds it as --data-root"
    return first_folder([Path(path).expanduser(), root / path], advice)


def find_images(folder: Path, val_share: float | None) -> tuple[ScannedImages, ScannedImages]:
    """Return (train, test): from train/ and val/ (or validation/, or test/), or split class by class without these.

    Raises:
        ValueError: if the folder has another layout; the message says what is wrong.
    """
    parts = _parts(folder)
    if parts is None:
        return _split(scan(folder), folder, _VAL_SHARE if val_share is None else val_share)
    if val_share is not None:
        raise ValueError(f"folder: val_share splits a folder of classes, but {folder} is split into {_names(parts)}")
    train, test = (scan(folder / part) for part in parts)
    if train.classes != test.classes:
        missing = [
            (parts[1], set(train.classes) - set(test.classes)),
            (parts[0], set(test.classes) - set(train.classes)),
        ]
        details = "; ".join(f"{part}/ lacks {_names(sorted(names))}" for part, names in missing if names)
        raise ValueError(f"{folder}: {parts[0]}/ and {parts[1]}/ must hold the same classes, but {details}")
    return train, test


def part_names(folder: Path, val_share: float | None) -> tuple[str, str]:
    """What the two parts that `find_images` returns are called, in words."""
    parts = _parts(folder)
    if parts is not None:
        return f"{parts[0]}/", f"{parts[1]}/"
    share = 100 * (_VAL_SHARE if val_share is None else val_share)
    return f"the {100 - share:g} % of each class for training", f"the {share:g} % of each class kept for testing"


def scan(folder: Path) -> ScannedImages:
    """The images at any depth in the class folders of `folder`, in the order of torchvision's ImageFolder.

    Hidden files and folders, whose names begin with a dot, are skipped.

    Raises:
        ValueError: if `folder` does not hold class folders with images; the message says what it holds.
    """
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    classes = [entry.name for entry in visible if entry.is_dir()]
    loose = [entry.name for entry in visible if _is_image(entry.name) and not entry.is_dir()]
    if loose:
        raise ValueError(f"{folder} holds images where folders are expected, one per class: {_names(loose)}")
    if not classes:
        raise ValueError(f"{folder} holds no class folders: put the images of each class into a folder with its name")
    if len(classes) == 1:
        raise ValueError(f"{folder} holds a single class, {classes[0]!r}; if it holds the classes, give its path")
    data_sets = [name for name in classes if (folder / name / "train").is_dir() and _evaluation(folder / name)]
    if data_sets:
        raise ValueError(
            f"{folder} holds whole data sets, each with its own train/: {_names(data_sets)}; give the path of one"
        )
    class_numbers = {name: k for k, name in enumerate(classes)}
    samples = make_dataset(folder, class_numbers, is_valid_file=_is_image, allow_empty=True)
    start = len(str(folder))
    samples = [(path, target) for path, target in samples if os.sep + "." not in path[start:]]
    empty = [classes[k] for k in sorted(set(range(len(classes))) - {target for _, target in samples})]
    if empty:
        raise ValueError(f"{folder}: no images ({', '.join(IMG_EXTENSIONS)}) of {_names(empty)}")
    return ScannedImages([path for path, _ in samples], [target for _, target in samples], tuple(classes))


def _parts(folder: Path) -> tuple[str, str] | None:
    """Names of the folders for training and testing; None for a folder of classes."""
    evaluation = _evaluation(folder)
    if (folder / "train").is_dir() and evaluation:
        return "train", evaluation[0]
    # A class may be called train or test; its folder then holds images, not folders.
    for name in ("train", *evaluation):
        if _holds_folders(folder / name):
            missing = "none of val/, validation/ and test/" if name == "train" else "no train/"
            raise ValueError(
                f"{folder} holds {name}/ but {missing}; to split {name}/ itself, give folder:{folder / name}"
            )
    return None


def _evaluation(folder: Path) -> list[str]:
    """Names of the folders for testing, in order of preference."""
    return [name for name in _EVALUATION if (folder / name).is_dir()]


def _split(images: ScannedImages, folder: Path, share: float) -> tuple[ScannedImages, ScannedImages]:
    """Keep `share` of each class for testing, but at least one image for each of the two parts.

    The choice depends on the images' names below `folder` alone: adding images later moves few others.
    """
    members: list[list[int]] = [[] for _ in images.classes]
    for number, target in enumerate(images.targets):
        members[target].append(number)
    singles = [name for name, numbers in zip(images.classes, members, strict=True) if len(numbers) < 2]
    if singles:
        raise ValueError(f"{folder}: a class needs two images to be split, but there is only one of {_names(singles)}")
    kept: set[int] = set()
    for numbers in members:
        count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
        kept |= set(sorted(numbers, key=lambda k: _digest(images.paths[k], folder))[:count])
    test = sorted(kept)
    train = [number for number in range(len(images.paths)) if number not in kept]
    return _choose(images, train), _choose(images, test)


def _digest(path: str, folder: Path) -> bytes:
    return hashlib.sha256(os.fsencode(Path(path).relative_to(folder).as_posix())).digest()


def _choose(images: ScannedImages, numbers: list[int]) -> ScannedImages:
    return ScannedImages([images.paths[k] for k in numbers], [images.targets[k] for k in numbers], images.classes)


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())


def _is_image(path: str) -> bool:
    return has_file_allowed_extension(path, IMG_EXTENSIONS)


def _names(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(map(repr, names[:_NUM_SHOWN])) + more
