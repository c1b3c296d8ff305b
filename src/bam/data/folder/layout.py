"""Which images of a folder belong to which class, and which are for training and which for testing."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension, make_dataset

_EVALUATION = ("val", "validation", "test")  # in this order of preference
_SHOWN = 5  # names in a message


class Images(NamedTuple):
    """Paths of images, the number of each one's class, and the names of the classes."""

    paths: list[str]
    targets: list[int]
    classes: tuple[str, ...]


def locate(path: str, root: Path) -> Path:
    """The folder at `path`, as it is or below `root`.

    Raises:
        FileNotFoundError: if it is at neither place.
    """
    if not path:
        raise ValueError("data: folder: lacks the path; write folder:PATH, a folder that holds a folder for each class")
    places = [Path(path).expanduser(), root / path]
    for place in places:
        if place.is_dir():
            return place
    looked = " nor ".join(dict.fromkeys(map(str, places)))
    raise FileNotFoundError(f"there is no folder {looked}; give its path as folder:PATH, or --data-root")


def find_images(folder: Path, val_share: float | None) -> tuple[Images, Images]:
    """(for training, for testing): from train/ and val/ (or validation/ or test/), else split class by class.

    Raises:
        ValueError: if the folder is not of that layout; the message names what is wrong.
    """
    parts = _parts(folder)
    if parts is None:
        return _split(scan(folder), folder, 0.2 if val_share is None else val_share)
    if val_share is not None:
        raise ValueError(f"folder: val_share splits a folder of classes, but {folder} is split into {_names(parts)}")
    train, test = (scan(folder / part) for part in parts)
    if train.classes != test.classes:
        lacking = [
            (parts[1], set(train.classes) - set(test.classes)),
            (parts[0], set(test.classes) - set(train.classes)),
        ]
        told = "; ".join(f"{part}/ lacks {_names(sorted(names))}" for part, names in lacking if names)
        raise ValueError(f"{folder}: {parts[0]}/ and {parts[1]}/ must hold the same classes, but {told}")
    return train, test


def scan(folder: Path) -> Images:
    """The images in the class folders of `folder`, at any depth, in the order of torchvision's ImageFolder.

    What has a name that begins with a dot is passed over.
    """
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    classes = [entry.name for entry in visible if entry.is_dir()]
    loose = [entry.name for entry in visible if _is_image(entry.name) and not entry.is_dir()]
    if loose:
        raise ValueError(f"{folder} holds images where folders are expected, one for each class: {_names(loose)}")
    if not classes:
        raise ValueError(f"{folder} holds no class folders: images of a class belong into a folder with its name")
    if len(classes) == 1:
        raise ValueError(f"{folder} holds a single class, {classes[0]!r}; if that holds the classes, give its path")
    whole = [name for name in classes if (folder / name / "train").is_dir() and _evaluation(folder / name)]
    if whole:
        raise ValueError(
            f"{folder} holds whole data sets, with train/ of their own: {_names(whole)}; give the path of one"
        )
    found = make_dataset(folder, {name: k for k, name in enumerate(classes)}, is_valid_file=_is_image, allow_empty=True)
    start = len(str(folder))
    found = [(path, target) for path, target in found if os.sep + "." not in path[start:]]
    empty = [classes[k] for k in sorted(set(range(len(classes))) - {target for _, target in found})]
    if empty:
        raise ValueError(f"{folder}: no images ({', '.join(IMG_EXTENSIONS)}) of {_names(empty)}")
    return Images([path for path, _ in found], [target for _, target in found], tuple(classes))


def _parts(folder: Path) -> tuple[str, str] | None:
    """The names of the parts for training and testing, or None for a folder of classes."""
    there = _evaluation(folder)
    if (folder / "train").is_dir() and there:
        return "train", there[0]
    # A class may be called train or test; then its folder holds images, not folders.
    for name in ("train", *there):
        if _holds_folders(folder / name):
            missing = "none of val/, validation/ and test/" if name == "train" else "no train/"
            raise ValueError(
                f"{folder} holds {name}/ but {missing}; to split {name}/ itself, give folder:{folder / name}"
            )
    return None


def _evaluation(folder: Path) -> list[str]:
    return [name for name in _EVALUATION if (folder / name).is_dir()]


def _split(images: Images, folder: Path, share: float) -> tuple[Images, Images]:
    """Keep `share` of each class for testing, at least one image, and leave at least one.

    Which ones depends on each image's name below `folder` alone: images that are added later move few others.
    """
    members: list[list[int]] = [[] for _ in images.classes]
    for number, target in enumerate(images.targets):
        members[target].append(number)
    single = [name for name, numbers in zip(images.classes, members, strict=True) if len(numbers) < 2]
    if single:
        raise ValueError(f"{folder}: a class needs two images to be split, and there is one only of {_names(single)}")
    kept: set[int] = set()
    for numbers in members:
        count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
        kept |= set(sorted(numbers, key=lambda k: _digest(images.paths[k], folder))[:count])
    test = sorted(kept)
    train = [number for number in range(len(images.paths)) if number not in kept]
    return _choose(images, train), _choose(images, test)


def _digest(path: str, folder: Path) -> bytes:
    return hashlib.sha256(os.fsencode(Path(path).relative_to(folder).as_posix())).digest()


def _choose(images: Images, numbers: list[int]) -> Images:
    return Images([images.paths[k] for k in numbers], [images.targets[k] for k in numbers], images.classes)


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())


def _is_image(path: str) -> bool:
    return has_file_allowed_extension(path, IMG_EXTENSIONS)


def _names(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
