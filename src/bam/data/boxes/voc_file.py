"""One annotation file of PASCAL VOC."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch
from PIL import Image, UnidentifiedImageError

from bam.data.boxes.checking import clipped, invalid_box
from bam.data.boxes.objects import Objects


def read_annotation(path: Path, image: Path, classes: Sequence[str], drop: bool) -> tuple[Objects, tuple[int, int]]:
    """The objects in an image, and its height and width.

    VOC counts pixels from 1 and includes the last one: xmin to xmax becomes xmin - 1 to xmax. What exceeds the image is
    cut off. Boxes of parts (of persons) are no objects.

    Args:
        path: of the annotation.
        image: path of the image, whose size is read where the annotation has none.
        classes: names of the classes, in the order of their numbers from 1.
        drop: leave out boxes without area in the image.

    Raises:
        ValueError: for a file that is no such annotation, or a box without area, unless such are dropped.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two for its encoding
        raise ValueError(f"{path} is no readable XML ({error}); replace it by a fresh copy") from None
    if root.tag != "annotation":
        raise ValueError(f"{path} is no annotation of VOC: its outermost element is {root.tag!r}")
    size = _size(root, path, image)
    found = [
        _object(node, f"{path}: object {number}", classes) for number, node in enumerate(root.findall("object"), 1)
    ]
    boxes = torch.tensor([one.box for one in found], dtype=torch.float64).reshape(-1, 4)
    boxes, valid = clipped(boxes, *size)
    if not (valid.all() or drop):
        one = found[int(valid.int().argmin())]
        raise invalid_box(f"{one.where} ({classes[one.label - 1]})", one.box, size)
    labels = torch.tensor([one.label for one in found], dtype=torch.int64)
    difficult = torch.tensor([one.difficult for one in found], dtype=torch.bool)
    return Objects.of(boxes[valid], labels[valid], difficult[valid]), size


class _Object(NamedTuple):
    where: str
    label: int
    difficult: bool
    box: list[float]  # xyxy in pixels from 0


def _object(node: ElementTree.Element, where: str, classes: Sequence[str]) -> _Object:
    name = _text(node, "name")
    if not name:
        raise ValueError(f"{where} has no name; correct it")
    if name not in classes:
        raise ValueError(
            f"{where} is of the class {name!r}, which is none of the {len(classes)}; list the names of all classes: "
            f"""--data-options '{{"classes": ["{name}", ...]}}'"""
        )
    place = node.find("bndbox")
    if place is None:
        raise ValueError(f"{where} ({name}) has no bndbox; correct it")
    box = []
    for corner, start in (("xmin", 1), ("ymin", 1), ("xmax", 0), ("ymax", 0)):
        value = _number(_text(place, corner))
        if value is None:
            raise ValueError(
                f"{where} ({name}): {corner} of its bndbox is no number: {_text(place, corner)!r}; correct it"
            )
        box.append(value - start)
    return _Object(where, classes.index(name) + 1, _number(_text(node, "difficult")) == 1, box)


def _size(root: ElementTree.Element, path: Path, image: Path) -> tuple[int, int]:
    """Height and width as annotated, or as the image's header tells where that is 0 or absent."""
    height, width = (_number(_text(root, f"size/{side}")) or 0 for side in ("height", "width"))
    if height >= 1 and width >= 1:
        return int(height), int(width)
    try:
        with Image.open(image) as header:
            return header.height, header.width
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} tells no size, and {image} cannot be read as an image: {error}") from None


def _text(node: ElementTree.Element, name: str) -> str:
    return (node.findtext(name) or "").strip()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
