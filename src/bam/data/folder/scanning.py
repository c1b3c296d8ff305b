"""Scan a folder of images: the class of each image, and whether it is for training or testing."""

import hashlib
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from bam.data.files.listing import TWICE, Skipped, entries_of, is_folder, is_image, list_below, skipped_note
from bam.data.files.places import first_folder
from bam.data.folder.scanned import ScannedImages, folder_notes

_EVALUATION = ("val", "valid", "validation", "test")  # in order of preference
_NUM_SHOWN = 5  # names in a message
_VAL_SHARE = 0.2


def locate(path: str, root: Path) -> Path:
    """The folder at `path`, or at `root`/`path`.

    Raises:
        FileNotFoundError: if neither is a folder.
        ValueError: for an empty path.
    """
    if not path:
        raise ValueError("data: folder: needs a path; write folder:PATH, for a folder that holds one folder per class")
    advice = "give its path as folder:PATH, or the folder that holds it as --data-root"
    return first_folder([Path(path).expanduser(), root / path], advice)


def find_images(folder: Path, val_share: float | None) -> tuple[ScannedImages, ScannedImages, list[str]]:
    """Return train, test and notes: from train/ and val/ (or valid/, validation/, test/), or split class by class.

    Each file is used once, even if links lead to it from elsewhere: the file itself comes before links to it, and links
    in the test part before those in the training part. The notes say how many images there are, and which files were
    skipped and why.

    Raises:
        ValueError: if the folder has another layout; the message says what is wrong.
    """
    parts, skipped = _parts(folder), Skipped()
    if parts is None:
        share = _VAL_SHARE if val_share is None else val_share
        (images,) = _scan([folder], skipped)
        train, test = _split(images, folder, share)
        names = (f"the {100 - 100 * share:g} % of each class for training", f"the {100 * share:g} % of each class kept")
        train, test = train._replace(part=names[0]), test._replace(part=f"{names[1]} for testing")
        return train, test, folder_notes(train, test, skipped)
    if val_share is not None:
        raise ValueError(f"folder: val_share splits a folder of classes, but {folder} already has {_names(parts)}")
    train, test = _scan([folder / part for part in parts], skipped)
    if train.classes != test.classes:
        missing = [
            (parts[1], set(train.classes) - set(test.classes)),
            (parts[0], set(test.classes) - set(train.classes)),
        ]
        details = "; ".join(f"{part}/ lacks {_names(sorted(names))}" for part, names in missing if names)
        raise ValueError(f"{folder}: {parts[0]}/ and {parts[1]}/ must hold the same classes, but {details}")
    unused = [f"{name}/ is not used" for name in _evaluation(folder) if name != parts[1]]
    return train, test, [*folder_notes(train, test, skipped), *unused]


def _scan(folders: list[Path], skipped: Skipped) -> list[ScannedImages]:
    """The images at any depth in the class folders of each of `folders`, in the order of torchvision's ImageFolder.

    Raises:
        ValueError: if one does not hold class folders with images; the message says what it holds.
    """
    names = [_class_folders(folder) for folder in folders]
    labelled = [_labelled(folder, class_folders, skipped) for folder, class_folders in zip(folders, names, strict=True)]
    scanned = []
    for folder, class_folders, images in zip(folders, names, _each_once(labelled, skipped), strict=True):
        classes = tuple(class_folders)
        empty = [classes[k] for k in sorted(set(range(len(classes))) - {image.target for image in images})]
        if empty:
            reasons = f"; {skipped_note(skipped)}" if skipped else ""
            raise ValueError(f"{folder}: no images ({', '.join(IMG_EXTENSIONS)}) of {_names(empty)}{reasons}")
        paths, targets = [image.path for image in images], [image.target for image in images]
        scanned.append(ScannedImages(paths, targets, classes, f"{folder.name}/"))
    return scanned


def _class_folders(folder: Path) -> dict[str, list[str]]:
    """Class name -> its folders; more than one if the name is spelt in different Unicode forms."""
    visible = [entry for entry in entries_of(folder) if not entry.name.startswith(".")]
    classes: dict[str, list[str]] = {}
    for entry in filter(is_folder, visible):
        classes.setdefault(unicodedata.normalize("NFC", entry.name), []).append(entry.name)
    loose = [entry.name for entry in visible if is_image(entry)]
    if loose:
        raise ValueError(f"{folder} holds images where folders are expected, one per class: {_names(loose)}")
    if not classes:
        raise ValueError(f"{folder} holds no class folders: put the images of each class into a folder with its name")
    if len(classes) == 1:
        raise ValueError(
            f"{folder} holds a single class, {min(classes)!r}; if that folder holds the classes, give its path"
        )
    data_sets = [name for name in classes if (folder / name / "train").is_dir() and _evaluation(folder / name)]
    if data_sets:
        raise ValueError(
            f"{folder} holds whole data sets, each with its own train/: {_names(data_sets)}; give the path of one"
        )
    return dict(sorted(classes.items()))


class _Labelled(NamedTuple):
    path: str
    real: str  # without links
    linked: bool
    target: int


def _labelled(folder: Path, classes: dict[str, list[str]], skipped: Skipped) -> list[_Labelled]:
    start, real_folder = len(str(folder)), os.path.realpath(folder)
    return [
        _Labelled(image.path, image.real, image.real != real_folder + image.path[start:], target)
        for target, names in enumerate(classes.values())
        for name in names
        for image in list_below(str(folder / name), skipped)
    ]


def _each_once(parts: list[list[_Labelled]], skipped: Skipped) -> list[list[_Labelled]]:
    """Leave out images that links reach again, in the same class, another class or the other part."""
    all_images = [image for part in reversed(parts) for image in part]
    owners: dict[str, _Labelled] = {}
    for image in sorted(all_images, key=lambda image: image.linked):
        owners.setdefault(image.real, image)
    if len(owners) < len(all_images):
        skipped[TWICE] += len(all_images) - len(owners)
    return [[image for image in part if owners[image.real] is image] for part in parts]


def _parts(folder: Path) -> tuple[str, str] | None:
    """Names of the folders for training and testing; None for a folder of classes."""
    evaluation = _evaluation(folder)
    if (folder / "train").is_dir() and evaluation:
        return "train", evaluation[0]
    # A class may be called train or test; its folder then holds images, not folders.
    for name in ("train", *evaluation):
        if _holds_folders(folder / name):
            missing = "none of val/, valid/, validation/ and test/" if name == "train" else "no train/"
            raise ValueError(
                f"{folder} holds {name}/ but {missing}; to split {name}/ itself, give folder:{folder / name}"
            )
    return None


def _evaluation(folder: Path) -> list[str]:
    """Names of the folders for testing, in order of preference."""
    return [name for name in _EVALUATION if (folder / name).is_dir()]


def _split(images: ScannedImages, folder: Path, share: float) -> tuple[ScannedImages, ScannedImages]:
    """Split off `share` of each class for testing, with at least one image of each class in both parts.

    The choice depends only on the images' paths below `folder`, so adding images later moves few others.
    """
    members: list[list[int]] = [[] for _ in images.classes]
    for number, target in enumerate(images.targets):
        members[target].append(number)
    singles = [name for name, numbers in zip(images.classes, members, strict=True) if len(numbers) < 2]
    if singles:
        raise ValueError(f"{folder}: to be split, a class needs two images, but there is only one of {_names(singles)}")
    test_numbers: set[int] = set()
    for numbers in members:
        count = min(max(round(share * len(numbers)), 1), len(numbers) - 1)
        test_numbers |= set(sorted(numbers, key=lambda k: _digest(images.paths[k], folder))[:count])
    test = sorted(test_numbers)
    train = [number for number in range(len(images.paths)) if number not in test_numbers]
    return _choose(images, train), _choose(images, test)


def _digest(path: str, folder: Path) -> bytes:
    return hashlib.sha256(os.fsencode(Path(path).relative_to(folder).as_posix())).digest()


def _choose(images: ScannedImages, numbers: list[int]) -> ScannedImages:
    return images._replace(paths=[images.paths[k] for k in numbers], targets=[images.targets[k] for k in numbers])


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())


def _names(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(map(repr, names[:_NUM_SHOWN])) + more
