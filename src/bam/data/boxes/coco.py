"""MS COCO (Lin et al. 2014), and data sets with annotations in its format."""

import functools
import os
from pathlib import Path
from typing import Any

from bam.data.boxes.annotated import AnnotatedImages, turned_note
from bam.data.boxes.coco_file import Categories, read_instances
from bam.data.boxes.dataset import BoxDataset
from bam.data.boxes.options import BoxOptions
from bam.data.files.places import first_folder
from bam.files import inside

_NAME = "instances_{}.json"


def coco(root: Path, **options: Any) -> tuple[BoxDataset, BoxDataset]:
    """Return (train, test): COCO's train2017 (118,287 images) and val2017 (5,000), from `root`/coco or `root` itself.

    A split S consists of the images in S/ and the file annotations/instances_S.json. Classes are numbered from 1 in
    order of category id. Crowds are ignored objects. Images come in order of id, including those without annotations. A
    process reads each file once.

    Args:
        root: the folder that holds coco/.
        **options: the fields of `BoxOptions`.

    Raises:
        FileNotFoundError: if a folder, an annotation file or an image is missing.
        ValueError: for a file in another format, for splits with different classes, or for an unknown or invalid
            option.
    """
    box_options = BoxOptions.read(options, "coco")
    folder = _locate(root)
    splits = {"train": box_options.train or "train2017", "test": box_options.test or "val2017"}
    (train, categories), (test, test_categories) = (
        _read(folder, part, split, box_options) for part, split in splits.items()
    )
    if categories != test_categories:
        raise ValueError(
            f"{folder / 'annotations'}: {splits['train']} and {splits['test']} have different categories; train and "
            f"test on splits of one data set"
        )
    return (
        _dataset(train, categories, box_options, box_options.num_train),
        _dataset(test, categories, box_options, box_options.num_test),
    )


def _dataset(images: AnnotatedImages, categories: Categories, options: BoxOptions, count: int | None) -> BoxDataset:
    part = slice(count)
    return BoxDataset(
        images.paths[part],
        images.objects[part],
        categories.names,
        options,
        images.sizes[part],
        images.image_ids[part],
        category_ids=list(categories.ids),
        protocol="coco",
        notes=turned_note(images.paths[part], options.exif),
    )


def _locate(root: Path) -> Path:
    advice = (
        f"unpack COCO's archives (https://cocodataset.org/#download) into {root / 'coco'}, or give the folder that "
        f"holds coco as --data-root or BAM_DATA"
    )
    return first_folder([root / "coco" / "annotations", root / "annotations"], advice).parent


def _read(folder: Path, part: str, split: str, options: BoxOptions) -> tuple[AnnotatedImages, Categories]:
    path, image_folder = folder / "annotations" / _NAME.format(split), folder / split
    if not path.is_file():
        prefix, suffix = _NAME.split("{}")
        splits = sorted(other.name[len(prefix) : -len(suffix)] for other in path.parent.glob(_NAME.format("*")))
        if not splits:
            raise FileNotFoundError(
                f"{path}, the annotations to {part} on, is missing; unpack COCO's annotations there"
            )
        raise FileNotFoundError(
            f"{path}, the annotations to {part} on, is missing; splits present: {', '.join(splits)}. "
            f"""Choose one of these: --data-options '{{"{part}": "{splits[0]}"}}'"""
        )
    if not image_folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {image_folder} with the images of {path}; unpack {split}.zip into {folder}"
        )
    status = path.stat()
    classes = None if options.classes is None else tuple(options.classes)
    images, categories = _read_file(path, classes, options.invalid == "drop", (status.st_mtime_ns, status.st_size))
    return images._replace(paths=_paths(images.paths, image_folder, path)), categories


@functools.lru_cache(maxsize=2)  # training and testing; the runs of a comparison share them
def _read_file(
    path: Path, classes: tuple[str, ...] | None, drop: bool, state: tuple[int, int]
) -> tuple[AnnotatedImages, Categories]:
    """Read a file; `state`, its time and size, is part of the cache key: a changed file is read again."""
    return read_instances(path, classes, drop)


def _paths(names: list[str], folder: Path, annotations: Path) -> list[str]:
    present = set(os.listdir(folder))
    for name in names:
        inside(folder, name, annotations)
        if name not in present and not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing, but {annotations} lists it; {folder} is not a complete copy of the images"
            )
    return [str(folder / name) for name in names]
