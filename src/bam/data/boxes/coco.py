"""MS COCO (Lin et al. 2014), and data sets whose annotations are files of its format."""

import functools
import os
from pathlib import Path
from typing import Any

from bam.data.boxes.checking import Annotated
from bam.data.boxes.coco_file import Categories, read_instances
from bam.data.boxes.dataset import BoxDataset
from bam.data.boxes.options import BoxOptions

_NAME = "instances_{}.json"


def coco(root: Path, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    """(train, test): COCO's train2017 (118,287 images) and val2017 (5,000), from `root`/coco, or `root` itself.

    A split S is the images in S/ and the file annotations/instances_S.json. Classes are numbered from 1 in the order of
    the categories' ids; crowds are ignored objects; images come in the order of their ids, those without annotations,
    too. Within one process, a file is read once.

    Args:
        root: where coco lies.
        **options: those of `BoxOptions`.

    Raises:
        FileNotFoundError: for a folder, annotations or an image that is missing.
        ValueError: for a file that is not of the format, named; for parts of different classes; or for an option that
            cannot be meant.
    """
    read = BoxOptions.read(options, "coco")
    folder = _locate(root)
    splits = {"train": read.train or "train2017", "test": read.test or "val2017"}
    (train, of_train), (test, of_test) = (_read(folder, part, split, read) for part, split in splits.items())
    if of_train != of_test:
        raise ValueError(
            f"{folder / 'annotations'}: {splits['train']} and {splits['test']} have different categories; train and "
            f"test on splits of one data set"
        )
    return _dataset(train, of_train, read, read.num_train), _dataset(test, of_train, read, read.num_test)


def _dataset(found: Annotated, categories: Categories, options: BoxOptions, count: int | None) -> BoxDataset:
    part = slice(count)
    return BoxDataset(
        found.paths[part],
        found.objects[part],
        categories.names,
        options,
        found.sizes[part],
        found.image_ids[part],
        category_ids=list(categories.ids),
        protocol="coco",
    )


def _locate(root: Path) -> Path:
    places = [root / "coco", root]
    for place in places:
        if (place / "annotations").is_dir():
            return place
    raise FileNotFoundError(
        f"there is no folder {places[0] / 'annotations'} nor {places[1] / 'annotations'}; unpack COCO's archives "
        f"(https://cocodataset.org/#download) into {places[0]}, or name the folder that holds coco with --data-root or "
        f"BAM_DATA"
    )


def _read(folder: Path, part: str, split: str, options: BoxOptions) -> tuple[Annotated, Categories]:
    path, images = folder / "annotations" / _NAME.format(split), folder / split
    if not path.is_file():
        prefix, suffix = _NAME.split("{}")
        there = sorted(other.name[len(prefix) : -len(suffix)] for other in path.parent.glob(_NAME.format("*")))
        if not there:
            raise FileNotFoundError(f"{path} is missing, the annotations to {part} on; unpack COCO's annotations there")
        raise FileNotFoundError(
            f"{path} is missing, the annotations to {part} on; splits there: {', '.join(there)}. Choose one of them: "
            f"""--data-options '{{"{part}": "{there[0]}"}}'"""
        )
    if not images.is_dir():
        raise FileNotFoundError(
            f"there is no folder {images}, for the images of {path}; unpack {split}.zip into {folder}"
        )
    state = path.stat()
    classes = None if options.classes is None else tuple(options.classes)
    found, categories = _read_file(path, classes, options.invalid == "drop", (state.st_mtime_ns, state.st_size))
    return found._replace(paths=_paths(found.paths, images, path)), categories


@functools.lru_cache(maxsize=2)  # training and testing; the runs of a comparison share them
def _read_file(
    path: Path, classes: tuple[str, ...] | None, drop: bool, state: tuple[int, int]
) -> tuple[Annotated, Categories]:
    return read_instances(path, classes, drop)


def _paths(names: list[str], folder: Path, annotations: Path) -> list[str]:
    present = set(os.listdir(folder))
    for name in names:
        if name not in present and not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing, though {annotations} names it; {folder} is not a complete copy of the "
                f"images"
            )
    return [str(folder / name) for name in names]
