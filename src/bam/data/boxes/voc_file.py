"""Read an annotation file of PASCAL VOC."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from bam.data.boxes.annotated import clipped, invalid_box
from bam.data.boxes.objects import Objects


def read_annotation(
    path: Path, image: Path, classes: Sequence[str], drop: bool, turn: bool = False
) -> tuple[Objects, tuple[int, int]]:
    """Read the objects in an image, and its height and width in pixels.

    VOC counts pixels from 1 and includes the last one: xmin to xmax becomes xmin - 1 to xmax. Boxes are clipped to the
    image. The parts of a person (head, hands, feet) are not objects.

    Args:
        path: the annotation.
        image: path of the image; its size is read from there if the annotation has none.
        classes: names of the classes, starting with label 1.
        drop: leave out boxes without area in the image, instead of raising an error.
        turn: the boxes refer to the image as EXIF turns it.

    Raises:
        ValueError: for a file in another format, or a box without area unless `drop` is True.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two are about its encoding
        raise ValueError(f"{path} is not valid XML ({error}); replace it with a fresh copy") from None
    if root.tag != "annotation":
        raise ValueError(
            f"{path} is not a VOC annotation: its root element is {root.tag!r}; replace it with a fresh copy"
        )
    if not root.findall("object") and root.find(".//object") is not None:
        raise ValueError(f"{path} has objects, but not directly below <annotation>: they would not be read; correct it")
    size = _size(root, path, image, turn)
    entries = [
        _entry(node, f"{path}: object {number}", classes) for number, node in enumerate(root.findall("object"), 1)
    ]
    boxes = torch.tensor([entry.box for entry in entries], dtype=torch.float64).reshape(-1, 4)
    boxes, valid = clipped(boxes, *size)
    if not (valid.all() or drop):
        where, label, _, box = entries[int(valid.int().argmin())]
        raise invalid_box(f"{where} ({classes[label - 1]})", box, size)
    labels = torch.tensor([entry.label for entry in entries], dtype=torch.int64)
    difficult = torch.tensor([entry.difficult for entry in entries], dtype=torch.bool)
    return Objects.of(boxes[valid], labels[valid], difficult[valid]), size


class _Entry(NamedTuple):
    where: str
    label: int
    difficult: bool
    box: list[float]  # xyxy in pixels from 0


def _entry(node: ElementTree.Element, where: str, classes: Sequence[str]) -> _Entry:
    name = _text(node, "name")
    if not name:
        raise ValueError(f"{where} has no name; correct it")
    if name not in classes:
        raise ValueError(
            f"{where} has the class {name!r}, which is not among the {len(classes)} known ones; list all "
            f"""classes: --data-options '{{"classes": ["{name}", ...]}}'"""
        )
    corners = node.find("bndbox")
    if corners is None:
        raise ValueError(f"{where} ({name}) has no bndbox; correct it")
    box = []
    for corner, start in (("xmin", 1), ("ymin", 1), ("xmax", 0), ("ymax", 0)):
        value = _number(_text(corners, corner))
        if value is None:
            raise ValueError(
                f"{where} ({name}): {corner} of its bndbox is not a number: {_text(corners, corner)!r}; correct it"
            )
        box.append(value - start)
    return _Entry(where, classes.index(name) + 1, _number(_text(node, "difficult")) == 1, box)


def _size(root: ElementTree.Element, path: Path, image: Path, turn: bool) -> tuple[int, int]:
    """Height and width as annotated; from the image's header if these are 0 or missing."""
    height, width = (_number(_text(root, f"size/{side}")) or 0 for side in ("height", "width"))
    if height >= 1 and width >= 1:
        return int(height), int(width)
    try:
        with Image.open(image) as header:
            swapped = turn and header.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # from 5 on, sides are swapped
            return (header.width, header.height) if swapped else (header.height, header.width)
    except (UnidentifiedImageError, OSError, ImportError) as error:
        raise ValueError(f"{path} gives no size, and {image} cannot be read as an image: {error}") from None


def _text(node: ElementTree.Element, name: str) -> str:
    return (node.findtext(name) or "").strip()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
