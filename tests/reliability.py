"""The tables of docs/reliability.md: faults, and what the command says about each, here.

`python -m tests.reliability` makes each fault in a folder of its own and writes the page; a test does the same and
compares. A message in quotes was copied by hand: it takes a process or a machine of its own, or is none.
"""

import contextlib
import csv
import io
import json
import os
import pickle
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from PIL import ExifTags, Image
from torchvision.models import resnet18

import bam
from bam import cli
from bam.data import load, load_boxes
from bam.records import environment
from bam.training import session
from bam.training.lock import NAME, _machine, locked
from bam.training.states import save_state
from tests.data.boxed import instances, voc_object, voc_xml, write_coco, write_voc
from tests.data.pictures import paint_classes

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
SOAK = PAGE.with_name("soak.csv")  # written by benchmarks/soak.py
#: A run of two steps.
TRAIN = """train --recipe digits/small --data-options '{"num_train": 64, "num_test": 20, "canvas": 16}' --epochs 1
--batch-size 32 --precision fp32 --device cpu --attention se --out runs/a"""
NETWORK_OF_ONE_CHANNEL = """
from torch import nn
def net(num_classes):
    layers = nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    return nn.Sequential(*layers)
"""
ALL = "everything"

Row = tuple[str, str, str, str | Callable[[], str]]  # fault, what happens, what is kept, message or what provokes it
TABLES: dict[str, list[Row]] = {"Runs": [], "Files and flags": []}


def by_hand(table: str, fault: str, happens: str, kept: str, message: str) -> None:
    """Add a row whose message is copied."""
    TABLES[table].append((fault, happens, kept, message))


def row(table: str, fault: str, happens: str, kept: str = ALL) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Add a row; the decorated function makes the fault in the working directory, and returns the message."""

    def add(provoke: Callable[[], str]) -> Callable[[], str]:
        TABLES[table].append((fault, happens, kept, provoke))
        return provoke

    return add


def said(command: str, about: str = "bam ") -> str:
    """The first line that a command prints in which `about` is."""
    text = io.StringIO()
    with (
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
        warnings.catch_warnings(record=True) as noted,
    ):
        warnings.simplefilter("always")
        with contextlib.suppress(SystemExit):
            cli.main(shlex.split(command))
    lines = text.getvalue().splitlines() + [str(warning.message) for warning in noted]
    return next(line for line in lines if about in line)


def stopped() -> Path:
    """A run in runs/a that was stopped after its first step."""
    with patch.object(session.Session, "_all_stop", lambda self, stop: self.progress.step == 1):
        said(TRAIN)
    return Path("runs/a")


def edit(path: Path, **changes: object) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@row(
    "Runs",
    "A loss, a weight or a result is not finite",
    "`bam train` stops within 50 steps, at the latest at the end of the epoch, with exit status 1, and marks its "
    "record as failed. `bam compare` goes on with the other runs and reports the failed seed. There is no verdict for "
    "a comparison with a failed run",
    "The last good state: no state that is not finite is saved",
)
def diverged() -> str:
    return said(f"{TRAIN} --lr 1e30")


by_hand(
    "Runs",
    "Several machines train together, and one is lost",
    "The command ends on the others with exit status 1. Given again to all of them, with `--resume`, the run ends in "
    "the same weights as one that nothing disturbed",
    "The last two states",
    "`bam train: another process of this training has ended, or cannot be reached ([...] Connection reset by peer...): "
    "see what it says; then give the command to all machines again (bam train: with --resume)`",
)


@row("Runs", "`lr: .nan` in a recipe", "It is refused", "Nothing is written")
def lr_not_a_number() -> str:
    Path("mine.yaml").write_text("lr: .nan\n")
    return said("train --recipe mine.yaml")


@row("Runs", "A second run or comparison on the same `--out`", "The second is refused", "All of the first")
def second_run() -> str:
    with locked(Path("runs/a")):
        return said(TRAIN)


@row(
    "Runs",
    "The process that held the folder was killed",
    "Its lock is taken over at once on the same machine (and container). From another machine, or after a restart, it "
    "is taken over five minutes after its last sign of life (it gives one every minute)",
    "The last two states",
)
def killed() -> str:
    folder = stopped()
    owner = {"host": "host", "pid": 4711, "started": "2026-01-31T12:00:00", "birth": "0"}
    (folder / NAME).write_text(json.dumps(owner | _machine() | {"pid": 2**22 + 1}))
    return said(TRAIN)


@row(
    "Runs",
    "Ctrl-C, SIGTERM, SIGHUP (a closed terminal; under `nohup` it is ignored)",
    "The state is saved; the exit status is 130, 143 or 129",
    "Everything up to this step",
)
def ctrl_c() -> str:
    with patch.object(session.Session, "_all_stop", lambda self, stop: self.progress.step == 1):
        return said(TRAIN)


@row("Runs", "Both states are damaged", "The run starts again", "The damaged files, as `*.damaged`")
def damaged_states() -> str:
    folder = stopped()
    save_state(folder, 2, {})
    states = list(folder.glob("state-*"))
    assert len(states) == 2
    for path in states:
        path.write_bytes(path.read_bytes()[:100])
    return said(f"{TRAIN} --resume", "damaged")


@row("Runs", "A state from another run was copied into the folder", "It is refused", "All files")
def state_of_another_run() -> str:
    recipe = stopped() / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 0", "seed: 1"))
    return said(f"{TRAIN} --resume --seed 1")


@row(
    "Runs",
    "A run resumes with another number of processes",
    "It is refused; `--allow-mixed` resumes it anyway",
    "All files",
)
def other_processes() -> str:
    stopped()
    with patch.object(session, "environment", lambda *arguments: environment(*arguments[:3], 2)):
        return said(f"{TRAIN} --resume")


@row(
    "Runs",
    "A resumed run or comparison has its attention elsewhere (an earlier version put `se` at the bottlenecks)",
    "It is refused",
    "All files",
)
def other_sites() -> str:
    said(TRAIN, "record and weights")
    edit(Path("runs/a/record.json"), sites=["layer1", "layer2"], final={})
    return said(f"{TRAIN} --resume")


def comparison(**changes: object) -> None:
    """The comparison c of two runs, of which the second is that of another device."""
    said(TRAIN, "record and weights")
    record = json.loads(Path("runs/a/record.json").read_text())
    for attention, device in (("none", "cpu"), ("se", "cuda")):
        folder = Path("c") / f"{attention}-seed0"
        folder.mkdir(parents=True)
        stretches = [record["stretches"][0] | {"device": device}]
        recipe = record["recipe"] | {"attention": attention}
        (folder / "record.json").write_text(json.dumps(record | {"recipe": recipe, "stretches": stretches}))
    plan = {"recipe": record["recipe"] | {"attention": "none"}, "attention": ["none", "se"], "seeds": [0]}
    Path("c/comparison.json").write_text(json.dumps(plan | {"latency_ms": {}, "pictures": []} | changes))


@row(
    "Runs",
    "The runs of a comparison differ in device, precision, kernel, processes or versions",
    "The report says so below the verdict",
    "All runs",
)
def mixed_devices() -> str:
    comparison()
    said("report c", "report: ")
    text = Path("c/report.md").read_text()
    return text[text.index("the runs differ in") :].partition("\n")[0]


def folder_of(model: str) -> None:
    """A run in a folder `bad` whose record names a network."""
    recipe = {"task": "classification", "model": model}
    Path("bad").mkdir()
    Path("bad/record.json").write_text(json.dumps({"recipe": recipe, "format": 1, "final": {"test_error": 0}}))
    Path("bad/model.safetensors").touch()


@row("Files and flags", '`record.json` or `comparison.json` names code (`"model": "evil:f"`)', "nothing is imported")
def record_names_code() -> str:
    folder_of("evil:f")
    return said("predict bad x.png")


@row("Files and flags", "`--recipe x.yaml` names code", "the same; `--model evil:f` on the command line allows it")
def recipe_names_code() -> str:
    Path("x.yaml").write_text("model: evil:f\n")
    return said("train --recipe x.yaml")


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@row("Files and flags", "A CIFAR file asks for another function or type", "refused; nothing is unpickled")
def cifar_asks_for_a_function() -> str:
    Path("cifar-100-python").mkdir()
    Path("cifar-100-python/meta").write_bytes(pickle.dumps(Evil()))
    return said("train --recipe cifar100/resnet20 --data-root . --precision fp32 --device cpu")


by_hand(
    "Files and flags",
    "A CIFAR file forges the flags of an array type",
    "the flags are ignored: bytes are only ever numbers",
    ALL,
    "none, or as above",
)


@row("Files and flags", "`comparison.json` or COCO's JSON names `../x.png`", "the file is not read")
def comparison_names_a_file_elsewhere() -> str:
    comparison(pictures=[{"file": "../../x.png"}])
    return said("report c")


@row("Files and flags", "One of our own files has values of the wrong type, is deeply nested or is not JSON", "refused")
def record_of_other_types() -> str:
    folder_of("resnet18")
    edit(Path("bad/record.json"), cost=[1])
    return said("predict bad x.png")


@row(
    "Files and flags",
    "`--milestones 7,-3`, `--gamma=-1`, `--warmup-epochs=-1`, `--save-minutes=-1`, `--seed 20000000000`, "
    '`--device cpu:7`, `--out ""`',
    "refused before anything is written; the message is the first one's",
)
def values_out_of_range() -> str:
    return said(f"{TRAIN} --milestones 7,-3")


@row("Files and flags", "`--epochs 100000000000000000000`", "refused, as are all counts of 2**32 and more")
def too_many_epochs() -> str:
    return said(f"{TRAIN} --epochs 100000000000000000000")


@row("Files and flags", "A flag's value has the wrong type", "exit code 2")
def flag_of_another_type() -> str:
    return said(f"{TRAIN} --epochs many")


@row("Files and flags", "An unexpected error", "exit code 1", "what was saved")
def unforeseen() -> str:
    def models() -> None:
        """Fail."""
        raise KeyError("x")

    with patch.dict(cli.VERBS, models=models):
        return said("models")


def refusal(call: Callable[[], object]) -> str:
    """What a function says that refuses."""
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("it refused nothing")


@row("Files and flags", "`bam.attach(resnet18)` without brackets", "ValueError", "the model")
def no_brackets() -> str:
    return refusal(lambda: bam.attach(resnet18))


def note_on(number: int = 0) -> str:
    """A note of `bam train --data folder:photos`, of the data set's notes, which the command prints."""
    return load("folder:photos", workers=0)[0].notes[number]


def photos(train: str = "train", test: str = "val") -> tuple[Path, Path]:
    """A data set of two classes; its parts."""
    for part, suffix in ((train, "png"), (test, "bmp")):
        paint_classes(Path("photos", part), {"cat": 2, "dog": 3}, suffix)
    return Path("photos", train), Path("photos", test)


@row(
    "Files and flags",
    "A class folder holds files that are no images (`.gif`, `.jfif`, `.heic`, hidden files)",
    "they are passed over; `bam predict` and `bam explain` skip the same files of a folder",
)
def other_files() -> str:
    train, _ = photos()
    for name in ("a.gif", "b.gif", ".hidden.png"):
        (train / "cat" / name).touch()
    return note_on()


@row("Files and flags", "A link leads to a folder above it", "it is not followed")
def loop() -> str:
    train, _ = photos()
    (train / "cat" / "up").symlink_to(train.absolute())
    return note_on()


@row(
    "Files and flags",
    "A file is reached twice through links: in a class, in two classes, or in training and testing",
    "it is used once: where it lies, else in the test part",
)
def twice() -> str:
    train, _ = photos()
    (train / "cat" / "dogs").symlink_to((train / "dog").absolute())
    return note_on()


@row(
    "Files and flags",
    "A test image has the content of a training image (up to 100,000 images are looked at)",
    "both are used",
)
def equal_images() -> str:
    train, test = photos()
    shutil.copy(train / "dog" / "1.png", test / "cat" / "9.png")
    return note_on(1)


@row(
    "Files and flags",
    "A pipe or a device is called `x.jpg`",
    "it is passed over in a folder; where a file names it, it is not opened",
)
def pipe() -> str:
    train, _ = photos()
    os.mkfifo(train / "cat" / "x.jpg")
    return note_on()


@row(
    "Files and flags",
    "Several of `val/`, `valid/`, `validation/`, `test/` lie beside `train/`",
    "the first of these is used",
)
def several_parts() -> str:
    _, test = photos(test="valid")
    shutil.copytree(test, "photos/test")
    return note_on(1)


by_hand(
    "Files and flags", "A class name is spelt in two forms of Unicode (macOS, Linux)", "it is one class", ALL, "none"
)


def voc(xml: str, ids: str = "a", size: tuple[int, int] = (50, 40)) -> Path:
    """VOC 2007 of one image."""
    folder = write_voc(Path("VOCdevkit/VOC2007"), {"a": xml}, size, trainval=[ids], test=[ids])
    return folder / "JPEGImages" / "a.jpg"


DETECT = "train --recipe voc2007/ssd300_vgg16 --data voc2007 --data-root . --precision fp32 --device cpu"


@row("Files and flags", "No training image has a box, or no test image", "refused before anything is trained")
def no_boxes() -> str:
    voc(voc_xml())
    return said(DETECT)


@row("Files and flags", "A VOC annotation holds its objects in another place (`<objects><object>`)", "refused")
def nested_objects() -> str:
    voc(voc_xml(f"<objects>{voc_object('cat', (1, 1, 9, 9))}</objects>"))
    return said(DETECT)


by_hand(
    "Files and flags",
    "VOC: a list with a byte-order mark; `.JPG`, `.jpeg` or `.png` for `.jpg`",
    "they are read (`x.jpg` first, where there are several)",
    ALL,
    "none",
)
by_hand("Files and flags", 'COCO: an id or a size is `"7"` or `7.0`', "it is read as 7", ALL, "none")


@row("Files and flags", "COCO: an id or a size is missing, or no whole number", "refused")
def coco_without_height() -> str:
    content = instances()
    del content["images"][0]["height"]
    write_coco(Path("coco"), val2017=instances())
    Path("coco/annotations/instances_val2017.json").write_text(json.dumps(content))
    return refusal(lambda: load_boxes("coco", ".", train="val2017"))


def turned(size: tuple[int, int]) -> None:
    """VOC 2007 of an image of 50 x 40 pixels that EXIF turns by 90 degrees."""
    path = voc(voc_xml(voc_object("cat", (1, 1, 9, 9)), size=size))
    with Image.open(path) as image:
        exif = image.getexif()
        exif[ExifTags.Base.Orientation] = 6
        image.save(path, exif=exif)


@row(
    "Files and flags",
    "EXIF turns images with boxes",
    "they are not turned; up to 100 images of each part are looked at",
)
def turned_images() -> str:
    turned((50, 40))
    return load_boxes("voc2007", ".")[0].notes[0]


@row(
    "Files and flags",
    "Boxes and size are of the turned image",
    'the image counts as unreadable; `--data-options \'{"exif": "turn"}\'` reads boxes of turned images',
)
def boxes_of_turned_images() -> str:
    turned((40, 50))
    train, _ = load_boxes("voc2007", ".", workers=0, unreadable="stop")
    return refusal(lambda: list(train.batches(1).test()))


@row("Files and flags", "A VOC list names `../x`", "the file is not read")
def list_names_a_file_elsewhere() -> str:
    voc(voc_xml(voc_object("cat", (1, 1, 9, 9))), ids="../x")
    return said(DETECT)


@row("Files and flags", "A training state that bam did not write has a correct digest", "refused; none of it is run")
def foreign_state() -> str:
    folder = stopped()
    for path in folder.glob("state-*"):
        path.unlink()
    save_state(folder, 1, {"progress": 1})
    return said(f"{TRAIN} --resume")


@row(
    "Files and flags",
    "`--num-classes -1`, `--crop-padding 1000000`, a canvas of 1000000 pixels",
    "refused; the message is the first one's",
)
def impossible_sizes() -> str:
    return said("cost --model resnet18 --num-classes -1")


@row("Files and flags", "There is not enough memory", "exit code 1", "what was saved")
def not_enough_memory() -> str:
    return said("sites --model resnet18 --image 10000000")  # more than an address can say


by_hand("Files and flags", "Ctrl-C while torch is imported", "exit code 130", ALL, "`bam: stopped`")


@row(
    "Files and flags",
    "`bam train` with a network of one channel",
    "refused before anything is trained, unless the network reduces the channels itself",
)
def one_channel() -> str:
    Path("grey.py").write_text(NETWORK_OF_ONE_CHANNEL)
    return said(f"{TRAIN} --attention none --model grey:net")


def message_of(provoke: Callable[[], str]) -> str:
    """What a fault makes the command say; names of this machine are replaced by examples."""
    importing = patch.object(sys, "path", ["", *sys.path])
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), importing:
        message = provoke()
    for pattern, example in (
        (rf"{re.escape(os.path.realpath(folder))}/|{re.escape(folder)}/", ""),
        (r"process \d+ on \S+, since [\d:T-]+ UTC", "process 4711 on host, since 2026-01-31T12:00:00 UTC"),
        (r"state-(\d+)-\w+", r"state-\1-..."),
    ):
        message = re.sub(pattern, example, message)
    return f"`{message}`"


def page() -> str:
    """The text of docs/reliability.md."""
    parts = [START]
    for title, rows in TABLES.items():
        parts += [f"## {title}\n", "| fault | what happens | what is kept | message |", "|---|---|---|---|"]
        for *cells, message in rows:
            cells.append(message if isinstance(message, str) else message_of(message))
            parts.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append(NOTES.get(title, ""))
    return "\n".join([*parts, *soak()]).rstrip() + "\n"


def soak() -> list[str]:
    """The table of docs/soak.csv, ten minutes in a row."""
    with SOAK.open(newline="") as file:
        samples = list(csv.DictReader(file))
    lines = [SOAK_NOTE, "| until minute | memory, MiB | descriptors | threads | steps |", "|---:|---:|---:|---:|---:|"]
    for start in range(0, len(samples), 10):
        part = samples[start : start + 10]
        highest = [str(max(int(row[name]) for row in part)) for name in ("memory_mib", "descriptors", "threads")]
        steps = sum(int(row["steps"]) for row in part)
        lines.append(f"| {start + len(part)} | {' | '.join(highest)} | {steps} |")
    return lines


START = """\
# Reliability

What happens when something goes wrong, what is kept, and the message you see. `python -m tests.reliability` writes
this page: it provokes each fault and copies the command's message. `tests/test_reliability.py`,
`tests/test_properties.py`, `tests/training/` and `tests/data/` test more faults.
"""
SOAK_NOTE = """\
## A long run

    python benchmarks/soak.py --csv docs/soak.csv --runs comparisons/vqa-digits -- \\
        bam compare --recipe vqa/digits --attention none,bam --cross-modal question,none,question_guided,co_attention

samples the command and its children once a minute. It trains one run after another, evaluates each epoch and saves a
state every five minutes. It was stopped and resumed twice, and shared two cores with other work and with a second
process that trained runs of the same comparison, whose steps count too. Each row has the highest values of ten minutes.
"""
NOTES = {
    "Runs": """
Each time a run starts or resumes, its record notes software, device, precision, and the number of processes and threads
(`stretches`). Two processes do not give the same run as one: each process's BatchNorm sees only its own part of the
batch. On GPUs, `--batchnorm sync` computes the statistics over all processes; torch has no such layer for CPUs.

To train a failed run of a comparison again, remove its folder and repeat the command.
"""
}

if __name__ == "__main__":
    PAGE.write_text(page())
