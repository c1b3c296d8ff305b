"""Read a file of instances in COCO's format."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bam.data.boxes.annotated import AnnotatedImages, clipped, invalid_box
from bam.data.boxes.objects import Objects

_KINDS = {int: "whole number", str: "string", list: "list"}
_MOST_DIGITS = 19  # of a 64-bit integer


class Categories(NamedTuple):
    """Names and ids of the categories, starting with label 1; ids may have gaps."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def read_instances(path: Path, classes: Sequence[str] | None, drop: bool) -> tuple[AnnotatedImages, Categories]:
    """Read a file's categories, and its images in order of id, with file names as paths.

    Args:
        path: the JSON file.
        classes: names of the categories in order of label; default: in order of id.
        drop: leave out boxes without area in their image, instead of raising an error.

    Raises:
        ValueError: for a file in another format, or a box without area unless `drop` is True.
    """
    content = _parse(path)
    categories = _categories(content["categories"], path, classes)
    images = _images(content["images"], path)
    annotations = _annotations(content["annotations"], path, images, categories)
    image_ids = sorted(images)
    return AnnotatedImages(
        [images[number].file_name for number in image_ids],
        _objects(annotations, path, images, categories, drop),
        [images[number].size for number in image_ids],
        image_ids,
    ), categories


def _parse(path: Path) -> dict[str, list[Any]]:
    try:
        with open(path, "rb") as file:
            content = json.load(file, object_hook=_without_outlines)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); replace it with a fresh copy") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} holds no instances in COCO's format: it has no list {key!r}")
    if not content["images"] or not content["categories"]:
        empty = "images" if not content["images"] else "categories"
        raise ValueError(f"{path} lists no {empty}; choose another split")
    return content


def _without_outlines(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # it makes up most of the file
    return entry


def _categories(entries: list[Any], path: Path, classes: Sequence[str] | None) -> Categories:
    names: dict[int, str] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: category {number} of the list"
        key, name = _value(entry, "id", int, where), _value(entry, "name", str, where)
        if key in names or name in names.values():
            raise ValueError(f"{where} has the id {key} or the name {name!r} of another category; correct it")
        names[key] = name
    if classes is None:
        ids = sorted(names)
        return Categories(tuple(names[key] for key in ids), tuple(ids))
    if set(classes) != set(names.values()):
        unmatched = ", ".join(map(repr, sorted(set(classes) ^ set(names.values()))[:5]))
        raise ValueError(
            f"the categories of {path} differ from those in the option classes, e.g. {unmatched}; list all of them, or "
            f"leave the option out"
        )
    by_name = {name: key for key, name in names.items()}
    return Categories(tuple(classes), tuple(by_name[name] for name in classes))


class _Image(NamedTuple):
    file_name: str
    size: tuple[int, int]  # height and width in pixels


def _images(entries: list[Any], path: Path) -> dict[int, _Image]:
    """Id -> image."""
    images: dict[int, _Image] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: image {number} of the list"
        key, name = _value(entry, "id", int, where), _value(entry, "file_name", str, where)
        height, width = _value(entry, "height", int, where), _value(entry, "width", int, where)
        if height < 1 or width < 1:
            raise ValueError(f"{where} ({name}) has {width} x {height} pixels; correct its width and height")
        if key in images:
            raise ValueError(f"{where} ({name}) has the id {key} of another image; correct it")
        images[key] = _Image(name, (height, width))
    return images


class _Annotation(NamedTuple):
    key: Any
    image_id: int
    label: int
    box: list[float]  # xyxy in pixels
    area: float
    crowd: bool


def _annotations(
    entries: list[Any], path: Path, images: dict[int, _Image], categories: Categories
) -> list[_Annotation]:
    labels = {key: label for label, key in enumerate(categories.ids, 1)}
    annotations = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: annotation {number} of the list"
        image_id, category_id = _value(entry, "image_id", int, where), _value(entry, "category_id", int, where)
        if image_id not in images:
            raise ValueError(f"{where} refers to an image that is not listed, image_id {image_id}; correct it")
        if category_id not in labels:
            raise ValueError(f"{where} refers to a category that is not listed, category_id {category_id}; correct it")
        box = _value(entry, "bbox", list, where)
        if len(box) != 4 or not all(map(_is_number, box)):
            raise ValueError(
                f"{where}: its bbox must be four numbers, x, y, width, height, but is {box!r:.60}; correct it"
            )
        x, y, width, height = map(float, box)
        area = entry.get("area", width * height)
        if not _is_number(area):
            raise ValueError(f"{where}: its area is not a number: {area!r:.60}; correct it")
        corners = [x, y, x + width, y + height]
        crowd = entry.get("iscrowd", 0) == 1
        annotations.append(_Annotation(entry.get("id", number), image_id, labels[category_id], corners, area, crowd))
    return annotations


def _objects(
    annotations: list[_Annotation], path: Path, images: dict[int, _Image], categories: Categories, drop: bool
) -> list[Objects]:
    """The objects in each image, with images in order of id, and objects in the order of the file."""
    annotations = sorted(annotations, key=lambda annotation: annotation.image_id)
    sizes = torch.tensor([images[annotation.image_id].size for annotation in annotations], dtype=torch.float64)
    boxes = torch.tensor([annotation.box for annotation in annotations], dtype=torch.float64).reshape(-1, 4)
    boxes, valid = clipped(boxes, *sizes.reshape(-1, 2).unbind(1))
    if not (valid.all() or drop):
        key, image_id, label, box, *_ = annotations[int(valid.int().argmin())]
        file_name, size = images[image_id]
        where = f"{path}: annotation {key} ({categories.names[label - 1]}) of image {image_id} ({file_name})"
        raise invalid_box(where, box, size)
    numbers = {image_id: number for number, image_id in enumerate(sorted(images))}
    owners = torch.tensor([numbers[annotation.image_id] for annotation in annotations], dtype=torch.int64)[valid]
    counts = torch.bincount(owners, minlength=len(images)).tolist()
    columns = (
        boxes[valid],
        torch.tensor([annotation.label for annotation in annotations], dtype=torch.int64)[valid],
        torch.tensor([annotation.crowd for annotation in annotations], dtype=torch.bool)[valid],
        torch.tensor([annotation.area for annotation in annotations], dtype=torch.float32)[valid],
    )
    return [Objects(*parts) for parts in zip(*(column.split(counts) for column in columns), strict=True)]


def _value(entry: Any, key: str, kind: type, where: str) -> Any:
    """The value of `key`; whole numbers may be written as 7.0 or "7"."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if value is None:
        raise ValueError(f"{where} has no {key!r} (a {_KINDS[kind]}); correct it")
    if kind is int and (
        (isinstance(value, float) and value.is_integer())
        or (isinstance(value, str) and value.isdecimal() and len(value) < _MOST_DIGITS)
    ):
        value = int(value)
    too_large = type(value) is int and abs(value) >= 2**63
    if type(value) is not kind or too_large:
        expected = f"{_KINDS[kind]}{' below 2**63' if too_large else ''}"
        raise ValueError(f"{where}: its {key!r} must be a {expected}, but is {value!r:.60}; correct it")
    return value


def _is_number(value: Any) -> bool:
    """Whether `value` is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
