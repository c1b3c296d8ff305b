"""What files and flags may say: nothing of them runs, none leads out of its folder, none ends in a traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import distributed, nn
from torchvision.models import resnet18

import bam
from bam import cli
from bam.attention.batchnorm import BatchNorm
from bam.files import inside
from bam.objects import refuse_code, trusting_code
from bam.recipes import ClassificationRecipe
from bam.tasks import task_of
from bam.tasks.task import Classes
from tests import reliability

TINY = ["--data-options", '{"num_train": 64, "num_test": 20, "canvas": 16}', "--epochs", "1", "--batch-size", "32"]

GREY = """
from torch import nn

def net(num_classes):
    layers = nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    return nn.Sequential(*layers)

class Reduced(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = net(num_classes)

    def forward(self, images):
        return self.net(images.mean(1, keepdim=True))
"""


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A working directory with a module that leaves a mark when it is imported."""
    (tmp_path / "marking.py").write_text("open('mark', 'w').close()\ndef net(): pass\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_run_code_only_if_the_user_says_so(marked, capsys):
    record = {"recipe": ClassificationRecipe(model="marking:net").as_dict(), "format": 1, "final": {"test_error": 0}}
    (marked / "run").mkdir()
    (marked / "run" / "record.json").write_text(json.dumps(record))
    (marked / "run" / "model.safetensors").write_bytes(b"")
    (marked / "r.yaml").write_text("model: marking:net\n")
    (marked / "gate.yaml").write_text('attention: "marking:net"\n')
    for words in (
        ["predict", "run", "x.png"],
        ["evaluate", "run"],
        ["export", "--run", "run", "--out", "x.onnx"],
        ["train", "--recipe", "r.yaml", "--out", "new"],
        ["compare", "--recipe", "gate.yaml", "--attention", "none,bam", "--out", "new"],
    ):
        assert cli.main(words) == 1
        assert "names code to run, 'marking:net', which was not run" in capsys.readouterr().err
    assert not (marked / "mark").exists()
    assert cli.main(["train", "--recipe", "r.yaml", "--model", "marking:net", "--out", "new", *TINY]) == 1
    assert "not a torch.nn.Module" in capsys.readouterr().err and (marked / "mark").exists()


def test_networks_of_one_channel_are_refused_unless_they_reduce_images_themselves(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grey.py").write_text(GREY)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["train", "--recipe", "digits/small", "--model", "grey:net", "--out", "a", *TINY]) == 1
    message = capsys.readouterr().err
    assert "grey:net: its first convolution takes 1 channel, but data sets serve RGB images" in message
    assert cli.main(["train", "--recipe", "digits/small", "--model", "grey:Reduced", "--out", "b", *TINY]) == 0


def test_trust_ends_with_its_context():
    with trusting_code():
        refuse_code(["own:net"], "r.yaml")
    with pytest.raises(ValueError, match="r.yaml names code to run, 'own:net'.*--trust-code"):
        refuse_code(["resnet18", "own:net"], "r.yaml")


def test_files_named_by_files_lie_below_their_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret")
    assert inside(tmp_path / "in", "a/b.png", "x.json") == tmp_path / "in" / "a" / "b.png"
    for name in ("../secret", "/etc/hostname", "a/../../secret"):
        with pytest.raises(ValueError, match="x.json names the file .*, which is not below"):
            inside(tmp_path / "in", name, "x.json")
    inside(tmp_path / "in", "link.png", "x.json")
    with pytest.raises(ValueError, match="not below"):
        inside(tmp_path / "in", "link.png", "x.json", follow_links=True)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--warmup-epochs=-1"], 1, "warmup_epochs must be at least 0"),
        (["--milestones", "7,-3"], 1, "milestones must be shares of the epochs"),
        (["--gamma=-1"], 1, "gamma must be at least 0"),
        (["--save-minutes=-1"], 1, "save_minutes must be at least 0"),
        (["--device", "cpu:7"], 1, "device 'cpu:7' is not available"),
        (["--out", ""], 1, "out: give the name of a folder"),
        (["--seed", "20000000000"], 1, "seed must be below"),
        (["--epochs", "1" + 20 * "0"], 1, "epochs must be below 2**32, got 100000000000000000000"),
        (["--warmup-epochs", "1e20"], 1, "warmup_epochs must be below 2**32, got 1e+20"),
        (["--lr", "1" + 400 * "0"], 2, "bam train: a number is too large (int too large to convert to float)"),
        (["--epochs", "many"], 2, "bam train: --epochs: expected int, got many; bam train --help explains the flags"),
        (["--data-options", "[1]"], 2, "--help explains the flags"),
        (["--crop-padding", "1000000"], 1, "crop_padding must be smaller than the images, which have 16 x 16 pixels"),
        (["--data-options", '{"canvas": 1000000}'], 1, "canvas must be a number of pixels from 16 to 256, got 1000000"),
        (["--data-options", '{"canvas": "a"}'], 1, "canvas must be a number of pixels"),
        (["--data-options", '{"num_train": true}'], 1, "num_train must be a whole number, at least 1, got True"),
        (["--data-options", '{"num_train": 1000000000000}'], 1, "TiB at once: use smaller images"),
    ],
)
def test_values_of_flags_are_refused_in_a_sentence(flags, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        left = cli.main(["train", "--recipe", "digits/small", "--out", "run", *TINY, *flags])
    except SystemExit as stop:
        left = stop.code
    error = capsys.readouterr().err
    assert left == status and message in error and len(error.splitlines()) <= 6 and "usage" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cost", "--model", "resnet18", "--num-classes", "-1"], "num_classes must be at least 1, got -1"),
        (["sites", "--model", "resnet18", "--num-classes", "0"], "num_classes must be at least 1, got 0"),
        (["cost", "--model", "ssd300_vgg16", "--num-classes", "-1"], "num_classes must be at least 1, got -1"),
        (["export", "--model", "resnet18", "--num-classes", "-1", "--out", "x.onnx"], "num_classes must be at least 1"),
        (
            ["sites", "--model", "resnet18", "--image", "10000000"],
            "not enough memory for 1600000000000000 bytes at once",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_a_sentence(words, message, capsys):
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_too_many_seeds(capsys):
    assert cli.main(["compare", "--recipe", "digits/small", "--seeds", "99999999"]) == 1
    assert "at most 10000" in capsys.readouterr().err


def test_the_command_to_go_on_trusts_what_was_trusted(monkeypatch, capsys):
    def models() -> None:
        """Stop."""
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "models", models)
    assert cli.main(["models", "--trust-code"]) == 130
    assert "continue with: bam models --trust-code" in capsys.readouterr().err


def test_unexpected_errors_are_one_sentence(monkeypatch, capsys):
    def models() -> None:
        """Fail."""
        raise KeyError("x")

    monkeypatch.setitem(cli.VERBS, "models", models)
    assert cli.main(["models"]) == 1
    assert "unexpected error, KeyError: 'x'" in (message := capsys.readouterr().err) and "--traceback" in message
    with pytest.raises(KeyError):
        cli.main(["models", "--traceback"])


@pytest.mark.parametrize(
    "words",
    [
        "[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer",
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
        "[gloo/transport/tcp/pair.cc:368] writev [127.0.0.1]:1: Broken pipe",
        "[gloo/transport/tcp/pair.cc:144] Application timeout caused pair closure",
        "[gloo/transport/tcp/socket.cc:61] connect [127.0.0.1]:1: Connection refused",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_a_lost_process_is_named_as_such(monkeypatch, capsys, words):
    def models() -> None:
        """Fail."""
        raise RuntimeError(words)

    monkeypatch.setitem(cli.VERBS, "models", models)
    assert cli.main(["models"]) == 1 and "another process" not in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["models"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("bam models: another process of this training has ended") and words in message


def test_a_missing_backend_is_no_lost_process(monkeypatch, capsys):
    def models() -> None:
        """Fail."""
        raise RuntimeError("Distributed package doesn't have NCCL built in")

    monkeypatch.setitem(cli.VERBS, "models", models)
    assert cli.main(["models"]) == 1 and "doesn't have NCCL built in" in capsys.readouterr().err


def test_functions_are_no_networks():
    for call in (bam.attach, bam.detach, bam.find_bottlenecks, bam.cost, bam.fuse, bam.attended, bam.freeze_backbone):
        with pytest.raises(ValueError, match=r"got a function; did you forget the brackets: resnet18\(\.\.\.\)"):
            call(resnet18)


def test_the_page_says_what_the_command_says():
    assert reliability.page() == reliability.PAGE.read_text(), "run python -m tests.reliability, and read what changed"


def test_ctrl_c_while_torch_is_imported_shows_no_traceback(tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs under nohup ignores it
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(bam.__file__).parents[1]}"}
    command = subprocess.run([sys.executable, "-m", "bam", "models"], env=environment, capture_output=True, text=True)
    library = subprocess.run([sys.executable, "-c", "import bam"], env=environment, capture_output=True, text=True)
    signal.signal(signal.SIGINT, before)
    assert (command.returncode, command.stderr) == (130, "bam: stopped\n")
    assert "KeyboardInterrupt" in library.stderr


@pytest.mark.parametrize(("error", "status"), [(None, 0), (KeyboardInterrupt, 130)])
def test_the_process_group_ends_with_the_command(error, status, tmp_path, monkeypatch):
    def models() -> None:
        """Join a group."""
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        if error:
            raise error

    monkeypatch.setitem(cli.VERBS, "models", models)
    assert cli.main(["models"]) == status and not distributed.is_initialized()


def test_batchnorms_of_a_classifier_are_synchronised_on_gpus_alone(monkeypatch):
    task = task_of(ClassificationRecipe(batchnorm="sync", attention="bam"))
    monkeypatch.setattr("bam.tasks.building.PartialState", lambda: SimpleNamespace(num_processes=1))
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in task.network(Classes(10, (16, 16))).modules())
    monkeypatch.setattr("bam.tasks.building.PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="batchnorm sync is for several GPUs: torch has no version for CPUs"):
        task.network(Classes(10, (16, 16)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    network = task.network(Classes(10, (16, 16)))
    assert not any(type(module) in (nn.BatchNorm2d, BatchNorm) for module in network.modules())
