import os

import pytest
import torch
from torchvision.datasets import ImageFolder

from bam.data import load
from bam.data.files.decoding import read_rgb
from tests.data.pictures import folder, paint, paint_classes


def test_images_and_classes_are_those_of_torchvision(tmp_path):
    names = {"zebra": 2, "Großer Bär": 1, "犬": 3, "10": 1, "9": 2, "a.b": 1}
    for part in ("train", "validation"):
        paint_classes(tmp_path / part, names)
    paint(tmp_path / "train" / "zebra" / "more" / "x.png", 1)
    paint(tmp_path / "train" / "zebra" / "folder.jpg" / "y.PNG", 2)  # a folder, whatever its name
    (tmp_path / "train" / "zebra" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "labels.csv").write_text("beside the classes")
    oracle = ImageFolder(str(tmp_path / "train"))
    paint(tmp_path / "train" / ".cache" / "z.png", 3)  # what is hidden is skipped
    paint(tmp_path / "train" / "zebra" / "._0.png", 3)
    paint(tmp_path / "train" / "zebra" / ".thumbnails" / "0.png", 3)
    train, test = folder(tmp_path)
    assert list(zip(train.paths, train.targets.tolist(), strict=True)) == oracle.samples and len(train) == 12
    assert list(train.classes) == oracle.classes == list(test.classes) and len(test) == 10
    assert train.image_size == (16, 16)


def test_a_folder_of_classes_is_split_class_by_class_and_always_alike(tmp_path):
    counts = {"bus": 10, "car": 5, "train": 2}  # a class may be called train
    paint_classes(tmp_path / "first", counts)
    for path in sorted((tmp_path / "first").rglob("*.png"), reverse=True):  # written in another order
        (tmp_path / "second" / path.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "second" / path.parent.name / path.name).write_bytes(path.read_bytes())

    def names(part, root):
        return [os.path.relpath(path, root) for path in part.paths]

    train, test = folder(tmp_path / "first")
    assert torch.bincount(test.targets).tolist() == [2, 1, 1] and torch.bincount(train.targets).tolist() == [8, 4, 1]
    assert len(set(train.paths + test.paths)) == 17 and train.classes == test.classes == ("bus", "car", "train")
    for part, again in zip((train, test), folder(tmp_path / "second"), strict=True):
        assert names(part, tmp_path / "first") == names(again, tmp_path / "second")
    _, more = folder(tmp_path / "first", val_share=0.5)
    assert torch.bincount(more.targets).tolist() == [5, 2, 1] and set(test.paths) <= set(more.paths)
    _, most = folder(tmp_path / "first", val_share=0.99)
    assert torch.bincount(most.targets).tolist() == [9, 4, 1]
    paint(tmp_path / "first" / "bus" / "new.png", 9)
    _, later = folder(tmp_path / "first")
    assert len(set(test.paths) & set(later.paths)) >= 3


def test_parts_in_their_order_of_preference(tmp_path):
    for part in ("train", "test"):
        paint_classes(tmp_path / part, {"a": 1, "b": 1})
    assert "/test/" in folder(tmp_path)[1].paths[0]
    for part in ("validation", "valid", "val"):
        paint_classes(tmp_path / part, {"a": 1, "b": 1})
        assert f"/{part}/" in folder(tmp_path)[1].paths[0]


def linked(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_a_run_tells_what_it_found_and_what_it_passed_over(tmp_path):
    paint_classes(tmp_path / "train", {"cat": 4, "dog": 6})
    paint_classes(tmp_path / "val", {"cat": 2, "dog": 2})
    for name in ("a.gif", "b.GIF", "c.jfif", "._d.jpg"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"x")
    train, test = folder(tmp_path)
    message = train.notes[0]
    assert len(train) == 10 and train.notes == test.notes == train.subset(torch.tensor([1])).notes
    assert message.startswith(
        "10 training images (train/), 4 to 6 per class; 4 test images (val/), 2 per class; "
        "skipped: 2 .gif, 1 hidden, 1 .jfif (images are .jpg, .jpeg, "
    )
    for number in range(6):
        (tmp_path / "val" / "dog" / f"x.{number}").write_bytes(b"x")
    assert "1 .1, 4 for other reasons (" in folder(tmp_path)[0].notes[0]


def test_pipes_are_passed_over(tmp_path):
    paint_classes(tmp_path, {"cat": 4, "dog": 6})
    os.mkfifo(tmp_path / "dog" / "pipe.jpg")  # to open it would wait for ever
    linked(tmp_path / "dog" / "round", "round")
    train, _ = folder(tmp_path)
    assert "skipped: 1 not a regular file, 1 without a suffix (" in train.notes[0]
    assert sum(len(images) for images, _ in train.batches(2, train.normalization()).test()) == 8
    with pytest.raises(ValueError, match="it is a folder, pipe or device, not a file"):
        read_rgb(str(tmp_path / "dog" / "pipe.jpg"))


def test_links_are_followed_without_loops_and_serve_each_file_once(tmp_path):
    for part in ("train", "val"):
        paint_classes(tmp_path / part, {"cat": 3, "dog": 3}, "jpg" if part == "val" else "png")
    paint(tmp_path / "pool" / "x.png", 77)
    linked(tmp_path / "train" / "cat" / "up", tmp_path)  # a loop
    linked(tmp_path / "train" / "cat" / "pool", tmp_path / "pool")
    linked(tmp_path / "val" / "cat" / "pool.png", tmp_path / "pool" / "x.png")  # twice through links: for testing alone
    linked(tmp_path / "train" / "cat" / "dogs", tmp_path / "train" / "dog")  # files stay where they lie
    linked(tmp_path / "val" / "cat" / "a", tmp_path / "train" / "cat")
    linked(tmp_path / "pool" / "again", tmp_path / "pool")
    train, test = folder(tmp_path)
    names = [[os.path.relpath(path, tmp_path) for path in part.paths] for part in (train, test)]
    assert names[0] == [f"train/{name}/{k}.png" for name in ("cat", "dog") for k in range(3)]
    assert names[1] == [
        *(f"val/cat/{k}.jpg" for k in range(3)),
        "val/cat/pool.png",
        *(f"val/dog/{k}.jpg" for k in range(3)),
    ]
    assert "linking to a folder above" in train.notes[0] and "reached twice through links" in train.notes[0]


def test_a_class_or_part_that_is_a_link(tmp_path):
    paint_classes(tmp_path / "real", {"cat": 2, "dog": 2})
    linked(tmp_path / "train", tmp_path / "real")
    paint_classes(tmp_path / "val", {"cat": 1})
    linked(tmp_path / "val" / "dog", tmp_path / "elsewhere")
    paint(tmp_path / "elsewhere" / "0.png", 5)
    assert [len(part) for part in folder(tmp_path)] == [4, 2]
    linked(tmp_path / "real" / "wolf", tmp_path / "real" / "dog")
    with pytest.raises(ValueError, match="no images .*of 'wolf'; skipped: 2 reached twice through links"):
        folder(tmp_path / "real")


def test_equal_images_in_both_parts_are_reported(tmp_path):
    for part in ("train", "val"):
        paint_classes(tmp_path / part, {"cat": 3, "dog": 3}, "png" if part == "train" else "bmp")
    assert len(folder(tmp_path)[0].notes) == 1
    copied = tmp_path / "val" / "cat" / "9.png"
    copied.write_bytes((tmp_path / "train" / "dog" / "1.png").read_bytes())
    train, test = folder(tmp_path)
    assert len(test) == 7 and train.notes[1].startswith("test images that equal training images: 1, e.g. ")
    assert train.notes[1].endswith(f"{copied} equals {tmp_path}/train/dog/1.png; results will look too good")


def test_unused_parts_are_named(tmp_path):
    for part in ("train", "valid", "test"):
        paint_classes(tmp_path / part, {"a": 1, "b": 1}, {"train": "png", "valid": "bmp"}.get(part, "jpg"))
    train, test = folder(tmp_path)
    assert test.part == "valid/" and train.notes[1] == "test/ is not used"


def test_class_names_in_two_forms_of_unicode_are_one_class(tmp_path):
    composed, decomposed = "B\u00e4r", "Ba\u0308r"
    for part, names in (("train", (composed, decomposed, "cat")), ("val", (decomposed, "cat"))):
        for number, name in enumerate(names):
            paint(tmp_path / part / name / f"{part}.png", number + 10 * len(part))
    train, test = folder(tmp_path)
    assert train.classes == test.classes == (composed, "cat") and train.targets.tolist() == [0, 0, 1]
    assert test.targets.tolist() == [0, 1]


def empty_folder(path):
    path.mkdir(parents=True)


LAYOUTS = {
    "nothing": (lambda root: None, "holds no class folders"),
    "no classes": (
        lambda root: [empty_folder(root / part) for part in ("train", "val")],
        "train holds no class folders",
    ),
    "empty class": (lambda root: empty_folder(root / "train" / "fox"), r"train: no images \(.jpg, .*of 'fox'"),
    "only hidden": (lambda root: paint(root / "val" / "fox" / ".x.png", 0), "val: no images .*of 'fox'"),
    "missing in val": (
        lambda root: [paint(root / "train" / name / "0.png", 0) for name in ("fox", "owl")],
        "must hold the same classes, but val/ lacks 'fox', 'owl'",
    ),
    "missing in train": (lambda root: paint(root / "val" / "fox" / "0.png", 0), "but train/ lacks 'fox'"),
    "loose": (lambda root: paint(root / "train" / "0.jpg", 0), "train holds images where folders.*'0.jpg'"),
    "loose in val": (lambda root: paint(root / "val" / "0.jpg", 0), "val holds images where folders.*'0.jpg'"),
    "flat parts": (
        lambda root: [paint(root / part / "0.jpg", 0) for part in ("train", "val")],
        "train holds images where folders",
    ),
    "flat": (
        lambda root: paint(root / "0.jpg", 0),
        "holds images where folders are expected, one per class: '0.jpg'",
    ),
    "one class": (
        lambda root: paint(root / "pets" / "cat" / "0.jpg", 0),
        "single class, 'pets'; if that folder holds the classes",
    ),
    "whole data sets": (
        lambda root: [paint(root / part / "cat" / "0.jpg", 0) for part in ("x", "y/train", "y/val")],
        "holds whole data sets, each with its own train/: 'y'; give",
    ),
    "train alone": (
        lambda root: paint(root / "train" / "cat" / "0.jpg", 0),
        "holds train/ but none of val/, .*give folder:.*/train",
    ),
    "val alone": (lambda root: paint(root / "val" / "cat" / "0.jpg", 0), "holds val/ but no train/"),
    "single image": (lambda root: paint_classes(root, {"a": 1, "b": 3}), "a class needs two images.*only one of 'a'"),
}


COMPLETE = ("empty class", "only hidden", "missing in val", "missing in train", "loose", "loose in val")


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_layouts_are_refused_by_name(tmp_path, name):
    make, message = LAYOUTS[name]
    if name in COMPLETE:
        for part in ("train", "val"):
            paint_classes(tmp_path / part, {"cat": 1, "dog": 1})
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        folder(tmp_path)


def test_the_folder_is_looked_for_as_it_is_and_below_the_root(pictures, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    elsewhere = tmp_path_factory.mktemp("root")
    assert len(load(f"folder:{pictures.name}", elsewhere)[0]) == 13
    assert len(load(f"folder:{pictures.name}/train", elsewhere)[0]) == 11  # of 13, split
    monkeypatch.chdir(elsewhere)
    assert len(load(f"folder:{pictures.name}", pictures.parent)[0]) == 13
    monkeypatch.setenv("BAM_DATA", str(pictures.parent))
    assert len(load(f"folder:{pictures.name}")[0]) == 13
    with pytest.raises(FileNotFoundError, match=f"no folder nowhere or {pictures.parent}/nowhere; give its path"):
        load("folder:nowhere")
    for name in ("folder", "folder:"):
        with pytest.raises(ValueError, match="write folder:PATH"):
            load(name)
    with pytest.raises(ValueError, match="known: digits, cifar100 and folder:PATH"):
        load("folders:x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"canvas": 40, "sise": 3},
            "no option canvas, sise; the options are size, resize, scale.*--data-options",
        ),
        ({"size": 0}, "size must be a number of pixels, at most 8192; got 0"),
        ({"size": 32.0}, "size must be"),
        ({"size": True}, "size must be"),
        ({"resize": 15}, "resize must be a number of pixels, at most 8192, and at least size, which is 16; got 15"),
        ({"scale": [0, 1]}, "scale must be"),
        ({"scale": [0.5, 0.2]}, "scale must be"),
        ({"scale": 0.5}, "scale must be.*e.g. \\[0.08, 1\\]; got 0.5"),
        ({"ratio": [2, 1]}, "ratio must be"),
        ({"workers": -1}, "workers must be a number of processes; got -1"),
        ({"unreadable": "ignore"}, 'unreadable must be "stop" or "skip"; got \'ignore\''),
        ({"val_share": 0.5}, "val_share splits a folder of classes, but .* already has 'train', 'val'"),
        ({"val_share": 1}, "val_share must be a share between 0 and 1"),
        ({"mean": [0.5, 0.5]}, "mean must be three numbers from 0 to 1"),
        ({"mean": [123.675, 116.28, 103.53]}, "mean must be three numbers from 0 to 1"),
        ({"std": [0.2, 0.2, 0]}, "std must be three numbers above 0"),
        ({"std": [0.2, 0.2, float("nan")]}, "std must be"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(pictures, options, message):
    with pytest.raises(ValueError, match=message):
        folder(pictures, **options)
