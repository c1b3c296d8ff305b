"""One file of instances in COCO's format."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bam.data.boxes.checking import Annotated, clipped, invalid_box
from bam.data.boxes.objects import Objects


class Categories(NamedTuple):
    """Names and ids of categories, in the order of their class numbers from 1; ids may have gaps."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


def read_instances(path: Path, classes: Sequence[str] | None, drop: bool) -> tuple[Annotated, Categories]:
    """The images of a file in the order of their ids, with names in place of paths; and the categories.

    Args:
        path: of the JSON file.
        classes: names of the categories in the order of their class numbers; default: in the order of their ids.
        drop: leave out boxes without area in the image.

    Raises:
        ValueError: for a file that is not of the format, or a box without area, unless such are dropped.
    """
    content = _parse(path)
    categories = _categories(content["categories"], path, classes)
    images = _images(content["images"], path)
    found = _annotations(content["annotations"], path, images, categories)
    image_ids = sorted(images)
    return Annotated(
        [images[number][0] for number in image_ids],
        _objects(found, path, images, categories, drop),
        [images[number][1] for number in image_ids],
        image_ids,
    ), categories


def _parse(path: Path) -> dict[str, list[Any]]:
    try:
        with open(path, "rb") as file:
            content = json.load(file, object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no readable JSON ({error}); replace it by a fresh copy") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} holds no instances in COCO's format: it has no list {key!r}")
    if not content["images"] or not content["categories"]:
        empty = "images" if not content["images"] else "categories"
        raise ValueError(f"{path} lists no {empty}; choose another split")
    return content


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # most of the file
    return entry


def _categories(entries: list[Any], path: Path, classes: Sequence[str] | None) -> Categories:
    names: dict[int, str] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: category {number} of the list"
        key, name = _value(entry, "id", int, where), _value(entry, "name", str, where)
        if key in names or name in names.values():
            raise ValueError(f"{where} repeats id or name of another, {key} and {name!r}; correct it")
        names[key] = name
    if classes is None:
        ids = sorted(names)
        return Categories(tuple(names[key] for key in ids), tuple(ids))
    if set(classes) != set(names.values()):
        odd = ", ".join(map(repr, sorted(set(classes) ^ set(names.values()))[:5]))
        raise ValueError(
            f"{path} has other categories than the option classes lists, e.g. {odd}; list all of them, or leave the "
            f"option out"
        )
    by_name = {name: key for key, name in names.items()}
    return Categories(tuple(classes), tuple(by_name[name] for name in classes))


def _images(entries: list[Any], path: Path) -> dict[int, tuple[str, tuple[int, int]]]:
    """Id -> (file name, (height, width))."""
    found: dict[int, tuple[str, tuple[int, int]]] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: image {number} of the list"
        key, name = _value(entry, "id", int, where), _value(entry, "file_name", str, where)
        height, width = _value(entry, "height", int, where), _value(entry, "width", int, where)
        if height < 1 or width < 1:
            raise ValueError(f"{where} ({name}) has {width} x {height} pixels; correct its width and height")
        if key in found:
            raise ValueError(f"{where} ({name}) has the id {key} of another image; correct it")
        found[key] = name, (height, width)
    return found


class _Annotation(NamedTuple):
    key: Any
    image: int
    label: int
    box: list[float]  # xyxy
    area: float
    crowd: bool


def _annotations(
    entries: list[Any], path: Path, images: dict[int, tuple[str, tuple[int, int]]], categories: Categories
) -> list[_Annotation]:
    labels = {key: label for label, key in enumerate(categories.ids, 1)}
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: annotation {number} of the list"
        image, category = _value(entry, "image_id", int, where), _value(entry, "category_id", int, where)
        if image not in images:
            raise ValueError(f"{where} is of an image that is not listed, image_id {image}; correct it")
        if category not in labels:
            raise ValueError(f"{where} is of a category that is not listed, category_id {category}; correct it")
        box = _value(entry, "bbox", list, where)
        if len(box) != 4 or not all(type(value) in (int, float) and math.isfinite(value) for value in box):
            raise ValueError(f"{where}: its bbox is not four numbers, x, y, width, height: {box!r}; correct it")
        x, y, width, height = box
        area = entry.get("area", width * height)
        if type(area) not in (int, float) or not math.isfinite(area):
            raise ValueError(f"{where}: its area is no number: {area!r}; correct it")
        corners = [x, y, x + width, y + height]
        crowd = entry.get("iscrowd", 0) == 1
        found.append(_Annotation(entry.get("id", number), image, labels[category], corners, area, crowd))
    return found


def _objects(
    found: list[_Annotation],
    path: Path,
    images: dict[int, tuple[str, tuple[int, int]]],
    categories: Categories,
    drop: bool,
) -> list[Objects]:
    """The objects in each image, in the order of the images' ids, each image's in the order of the file."""
    found = sorted(found, key=lambda one: one.image)
    sizes = torch.tensor([images[one.image][1] for one in found], dtype=torch.float64).reshape(-1, 2)
    boxes = torch.tensor([one.box for one in found], dtype=torch.float64).reshape(-1, 4)
    boxes, valid = clipped(boxes, *sizes.unbind(1))
    if not (valid.all() or drop):
        one = found[int(valid.int().argmin())]
        name, size = images[one.image]
        where = f"{path}: annotation {one.key} ({categories.names[one.label - 1]}) of image {one.image} ({name})"
        raise invalid_box(where, one.box, size)
    numbers = {key: number for number, key in enumerate(sorted(images))}
    owners = torch.tensor([numbers[one.image] for one in found], dtype=torch.int64)[valid]
    counts = torch.bincount(owners, minlength=len(images)).tolist()
    columns = (
        boxes[valid],
        torch.tensor([one.label for one in found], dtype=torch.int64)[valid],
        torch.tensor([one.crowd for one in found], dtype=torch.bool)[valid],
        torch.tensor([one.area for one in found], dtype=torch.float32)[valid],
    )
    return [Objects(*parts) for parts in zip(*(column.split(counts) for column in columns), strict=True)]


def _value(entry: Any, key: str, kind: type, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not kind:
        raise ValueError(f"{where} has no {key!r} (a {_KINDS[kind]}); correct it")
    return value


_KINDS = {int: "whole number", str: "text", list: "list"}
