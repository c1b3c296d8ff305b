"""PASCAL VOC (Everingham et al. 2010): photographs with boxes of 20 classes."""

import functools
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bam.data.boxes.annotated import AnnotatedImages, turned_note
from bam.data.boxes.dataset import BoxDataset
from bam.data.boxes.options import BoxOptions
from bam.data.boxes.voc_file import read_annotation
from bam.data.files.places import first_folder
from bam.files import inside

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc2007(root: Path, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    """Return (train, test): VOC 2007's trainval (5,011 images) and test (4,952), from `root`/VOCdevkit/VOC2007.

    `root` may also be the folder that holds VOC2007/. Objects marked as difficult are ignored. A process reads each
    annotation once, and does not notice later changes to it.

    Args:
        root: the folder that holds VOCdevkit/.
        **options: the fields of `BoxOptions`.

    Raises:
        FileNotFoundError: if a folder, list, annotation or image is missing.
        ValueError: for a file in another format, or for an unknown or invalid option.
    """
    return _load(root, ("VOC2007",), BoxOptions.read(options, "voc2007"))


def voc0712(root: Path, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    """Return (train, test): trainval of VOC 2007 and VOC 2012 together (16,551 images), and test of VOC 2007.

    See `voc2007`; VOC2012/ lies beside VOC2007/.
    """
    return _load(root, ("VOC2007", "VOC2012"), BoxOptions.read(options, "voc0712"))


def _load(root: Path, years: Sequence[str], options: BoxOptions) -> tuple[BoxDataset, BoxDataset]:
    folders = [_locate(root, year) for year in years]
    train = _read(folders, "train", options.train or "trainval", options.num_train, options)
    test = _read(folders[:1], "test", options.test or "test", options.num_test, options)
    return _dataset(train, options), _dataset(test, options)


def _read(folders: list[Path], part: str, split: str, count: int | None, options: BoxOptions) -> AnnotatedImages:
    years: list[AnnotatedImages] = []
    classes = tuple(options.classes or CLASSES)
    for folder in folders:
        ids = _ids(folder, part, split)
        ids = ids if count is None else ids[: count - sum(len(images.paths) for images in years)]
        years.append(
            _read_files(folder, ids, classes, options.invalid == "drop", options.exif == "turn", _times(folder))
        )
    merged = AnnotatedImages(*(list(itertools.chain(*values)) for values in zip(*years, strict=True)))
    return merged._replace(image_ids=list(range(1, len(merged.paths) + 1)))


def _dataset(images: AnnotatedImages, options: BoxOptions) -> BoxDataset:
    classes = tuple(options.classes or CLASSES)
    numbers = list(range(1, len(classes) + 1))
    return BoxDataset(
        images.paths,
        images.objects,
        classes,
        options,
        images.sizes,
        images.image_ids,
        category_ids=numbers,
        protocol="voc",
        notes=turned_note(images.paths, options.exif),
    )


def _locate(root: Path, year: str) -> Path:
    advice = (
        "unpack VOC's archives (http://host.robots.ox.ac.uk/pascal/VOC/) there, or give the folder that holds "
        "VOCdevkit as --data-root or BAM_DATA"
    )
    return first_folder([root / "VOCdevkit" / year, root / year], advice)


def _ids(folder: Path, part: str, split: str) -> tuple[str, ...]:
    """The ids of a split's images, in the order of its list."""
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        splits = sorted(other.stem for other in path.parent.glob("*.txt") if "_" not in other.stem)  # not cat_val
        raise FileNotFoundError(
            f"{path}, the list of the images to {part} on, is missing; lists present: {', '.join(splits) or 'none'}. "
            f"""Choose one of these: --data-options '{{"{part}": "{splits[0] if splits else split}"}}'"""
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a list of images: it is not text; replace it with a fresh copy") from None
    ids = tuple(line.strip() for line in lines if line.strip())
    invalid = [name for name in ids if len(name.split()) > 1]
    if invalid or not ids:
        problem = f"it has the line {invalid[0]!r}" if invalid else "it is empty"
        raise ValueError(f"{path} is not a list of images, with one name per line: {problem}; choose another split")
    for name in ids:
        inside(folder / "Annotations", f"{name}.xml", path)
    return ids


def _times(folder: Path) -> tuple[int, ...]:
    """When files were last added or removed; part of the cache key, so that annotations are then read again."""
    places = [folder / name for name in ("Annotations", "JPEGImages")]
    for place in places:
        if not place.is_dir():
            raise FileNotFoundError(f"there is no folder {place}; {folder} is not a complete copy of VOC")
    return tuple(place.stat().st_mtime_ns for place in places)


@functools.lru_cache(maxsize=6)  # the runs of a comparison share them; voc0712 has three parts
def _read_files(
    folder: Path, ids: tuple[str, ...], classes: tuple[str, ...], drop: bool, turn: bool, times: tuple[int, ...]
) -> AnnotatedImages:
    present = {place: set(os.listdir(folder / place)) for place in ("Annotations", "JPEGImages")}
    pictures: dict[str, list[str]] = {}
    for file in sorted(present["JPEGImages"]):
        name, suffix = os.path.splitext(file)
        if suffix.lower() in (".jpg", ".jpeg", ".png"):
            pictures.setdefault(name, []).append(file)
    images = AnnotatedImages([], [], [], [])
    for name in ids:
        candidates = pictures.get(name, [])
        picture = f"{name}.jpg" if f"{name}.jpg" in candidates or not candidates else candidates[0]
        for place, file in (("Annotations", f"{name}.xml"), ("JPEGImages", picture)):
            if file not in present[place]:
                raise FileNotFoundError(
                    f"{folder / place / file} is missing, but the list of a split names {name}; "
                    f"{folder} is not a complete copy of VOC"
                )
        image = folder / "JPEGImages" / picture
        objects, size = read_annotation(folder / "Annotations" / f"{name}.xml", image, classes, drop, turn)
        images.paths.append(str(image))
        images.objects.append(objects)
        images.sizes.append(size)
    return images
