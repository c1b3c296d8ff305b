"""Small data sets with boxes, in the layouts of PASCAL VOC and MS COCO."""

import dataclasses
import json

import numpy as np
import torch
from PIL import Image

from bam.data.boxes import BoxDataset, BoxOptions, Objects
from tests.data.pictures import paint


def voc_object(name, box, difficult=0, more=""):
    """`box` as VOC counts: from 1, the last pixel included."""
    corners = "".join(
        f"<{corner}>{value}</{corner}>" for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox>{more}</object>"


def voc_xml(*objects, size=(50, 40)):
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>x.jpg</filename>{shape}{''.join(objects)}</annotation>"


def write_voc(folder, images, size=(50, 40), **splits):
    """`folder`/VOCdevkit/VOC2007 or the like: images {id: XML}, splits {name: ids}; its path."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (name, xml) in enumerate(images.items()):
        (folder / "Annotations" / f"{name}.xml").write_text(xml)
        paint(folder / "JPEGImages" / f"{name}.jpg", number, size=size)
    for name, ids in splits.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{one}\n" for one in ids))
    return folder


def instances(images=3, size=(50, 40)):
    """Content of a file in COCO's format; ids have gaps, the last image is without annotations."""
    return {
        "images": [
            {"id": 10 * k, "file_name": f"{k:03}.jpg", "width": size[0], "height": size[1]}
            for k in range(images, 0, -1)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 7, "bbox": [1.5, 2, 10, 20], "area": 150.5, "iscrowd": 0},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [30, 5, 20.004, 8], "area": 160, "iscrowd": 0},
            {"id": 3, "image_id": 20, "category_id": 3, "bbox": [0, 0, 50, 40], "area": 900, "iscrowd": 1},
        ],
    }


def write_coco(folder, **splits):
    """`folder` with the images and the annotations of splits {name: content}; the path of the last annotations."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in splits.items():
        for number, image in enumerate(content["images"]):
            paint(folder / split / image["file_name"], number, size=(image["width"], image["height"]))
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return path


def draw_boxes(path, boxes, size=(60, 48)):
    """A dark picture with a bright rectangle in each of the boxes, xyxy; losslessly."""
    image = np.full((size[1], size[0], 3), 20, dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 250
    Image.fromarray(image).save(path)
    return str(path)


def drawn(folder, boxes_of_each, size=(60, 48), **options):
    """Pictures of rectangles, one list of boxes for each."""
    paths = [draw_boxes(folder / f"{k}.png", boxes, size) for k, boxes in enumerate(boxes_of_each)]
    objects = [Objects.of(torch.tensor(boxes).reshape(-1, 4), torch.ones(len(boxes))) for boxes in boxes_of_each]
    ids = list(range(1, len(paths) + 1))
    read = BoxOptions.read({"workers": 0} | options)
    return BoxDataset(paths, objects, ("rectangle",), read, [size[::-1]] * len(paths), ids, [1], "voc")


def changed(data, **options):
    """`data` with other options."""
    return dataclasses.replace(data, options=dataclasses.replace(data.options, **options))


def same_boxes(left, right):
    """Whether two sequences of batches are equal, bit by bit."""
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for (images, targets), (others, other_targets) in zip(left, right, strict=True):
        if len(images) != len(others) or not all(a.equal(b) for a, b in zip(images, others, strict=True)):
            return False
        for a, b in zip(targets, other_targets, strict=True):
            if a["number"] != b["number"] or not (a["boxes"].equal(b["boxes"]) and a["labels"].equal(b["labels"])):
                return False
    return True
