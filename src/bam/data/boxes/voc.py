"""PASCAL VOC (Everingham et al. 2010): photographs with boxes of 20 classes."""

import functools
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bam.data.boxes.checking import Annotated
from bam.data.boxes.dataset import BoxDataset
from bam.data.boxes.options import BoxOptions
from bam.data.boxes.voc_file import read_annotation

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc2007(root: Path, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    """(train, test): VOC 2007's trainval (5,011 images) and test (4,952), from `root`/VOCdevkit/VOC2007.

    `root` may also be the folder that holds VOC2007 itself. Objects that are "difficult" are ignored ones. Within one
    process, annotations are read once; a file that is changed inside of Annotations/ meanwhile is not noticed.

    Args:
        root: where VOCdevkit lies.
        **options: those of `BoxOptions`.

    Raises:
        FileNotFoundError: for a folder, list, annotation or image that is missing.
        ValueError: for a file that is not of the layout, named, or for an option that cannot be meant.
    """
    return _load(root, ("VOC2007",), BoxOptions.read(options, "voc2007"))


def voc0712(root: Path, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    """(train, test): trainval of VOC 2007 and of VOC 2012 together (16,551 images), and the test images of VOC 2007.

    See `voc2007`; VOC2012 lies beside VOC2007.
    """
    return _load(root, ("VOC2007", "VOC2012"), BoxOptions.read(options, "voc0712"))


def _load(root: Path, years: Sequence[str], options: BoxOptions) -> tuple[BoxDataset, BoxDataset]:
    folders = [_locate(root, year) for year in years]
    train = _read(folders, "train", options.train or "trainval", options.num_train, options)
    test = _read(folders[:1], "test", options.test or "test", options.num_test, options)
    return _dataset(train, options), _dataset(test, options)


def _read(folders: list[Path], part: str, split: str, count: int | None, options: BoxOptions) -> Annotated:
    found: list[Annotated] = []
    classes = tuple(options.classes or CLASSES)
    for folder in folders:
        ids = _ids(folder, part, split)
        ids = ids if count is None else ids[: count - sum(len(other.paths) for other in found)]
        found.append(_read_files(folder, ids, classes, options.invalid == "drop", _times(folder)))
    every = Annotated(*(list(itertools.chain(*values)) for values in zip(*found, strict=True)))
    return every._replace(image_ids=list(range(1, len(every.paths) + 1)))


def _dataset(found: Annotated, options: BoxOptions) -> BoxDataset:
    classes = tuple(options.classes or CLASSES)
    numbers = list(range(1, len(classes) + 1))
    return BoxDataset(
        found.paths, found.objects, classes, options, found.sizes, found.image_ids, category_ids=numbers, protocol="voc"
    )


def _locate(root: Path, year: str) -> Path:
    places = [root / "VOCdevkit" / year, root / year]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"there is no folder {places[0]} nor {places[1]}; unpack VOC's archives "
        f"(http://host.robots.ox.ac.uk/pascal/VOC/) there, or name the folder that holds VOCdevkit with --data-root or "
        f"BAM_DATA"
    )


def _ids(folder: Path, part: str, split: str) -> tuple[str, ...]:
    """The images of a split, as its list names them."""
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        there = sorted(other.stem for other in path.parent.glob("*.txt") if "_" not in other.stem)  # not a class's
        raise FileNotFoundError(
            f"{path} is missing, the list of the images to {part} on; lists there: {', '.join(there) or 'none'}. "
            f"""Choose one of them: --data-options '{{"{part}": "{there[0] if there else split}"}}'"""
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no list of images: it is no text; replace it by a fresh copy") from None
    ids = tuple(line.strip() for line in lines if line.strip())
    odd = [name for name in ids if len(name.split()) > 1]
    if odd or not ids:
        what = f"a line of it is {odd[0]!r}" if odd else "it is empty"
        raise ValueError(f"{path} is no list of images, the name of one a line: {what}; choose another split")
    return ids


def _times(folder: Path) -> tuple[int, ...]:
    """When files were last added or removed: what has been read before then is read again."""
    places = [folder / name for name in ("Annotations", "JPEGImages")]
    for place in places:
        if not place.is_dir():
            raise FileNotFoundError(f"there is no folder {place}; {folder} is not a complete copy of VOC")
    return tuple(place.stat().st_mtime_ns for place in places)


@functools.lru_cache(maxsize=6)  # the runs of a comparison share them: three parts of voc0712, and others
def _read_files(
    folder: Path, ids: tuple[str, ...], classes: tuple[str, ...], drop: bool, times: tuple[int, ...]
) -> Annotated:
    present = {place: set(os.listdir(folder / place)) for place in ("Annotations", "JPEGImages")}
    found = Annotated([], [], [], [])
    for name in ids:
        for place, file in (("Annotations", f"{name}.xml"), ("JPEGImages", f"{name}.jpg")):
            if file not in present[place]:
                raise FileNotFoundError(
                    f"{folder / place / file} is missing, though the list of a split names {name}; "
                    f"{folder} is not a complete copy of VOC"
                )
        image = folder / "JPEGImages" / f"{name}.jpg"
        objects, size = read_annotation(folder / "Annotations" / f"{name}.xml", image, classes, drop)
        found.paths.append(str(image))
        found.objects.append(objects)
        found.sizes.append(size)
    return found
