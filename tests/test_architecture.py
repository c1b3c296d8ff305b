"""The house: who may import whom, and what the core pulls in."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import bam

ROOT = Path(bam.__file__).parent
SCRIPT = importlib.util.spec_from_file_location("rooms", Path(__file__).parent.parent / "docs" / "rooms.py")
rooms = importlib.util.module_from_spec(SCRIPT)  # the ladder, and the picture of it
SCRIPT.loader.exec_module(rooms)
PROBE = "import sys; {}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    room = rooms.room_of(path)
    if room == "__init__":
        assert rooms.imports_of(path) <= set(rooms.CORE)
        return
    for other in rooms.imports_of(path):
        assert rooms.LADDER.index(other) <= rooms.LADDER.index(room), f"{room} imports {other}"


def test_the_picture_of_the_rooms_is_up_to_date():
    assert rooms.picture() == rooms.PICTURE.read_text(), "docs/rooms.svg is stale: run python docs/rooms.py"


def test_a_room_without_a_place_is_an_error(monkeypatch):
    for ladder, message in (
        (rooms.LADDER[:-1], "does not list the rooms of the package: add __main__"),
        ([*rooms.LADDER, "attic"], "there is no src/bam/attic: remove it"),
        (rooms.LADDER[::-1], "__main__ imports cli, which is not above it"),
    ):
        monkeypatch.setattr(rooms, "LADDER", ladder)
        with pytest.raises(ValueError, match=message):
            rooms.read_rooms()


def test_reports_never_see_models():
    imported = set().union(*map(rooms.imports_of, (ROOT / "reports").glob("*.py")))
    assert imported <= {"reports", "records", "files", "costs"}


def loaded_by(statement):
    run = subprocess.run([sys.executable, "-c", PROBE.format(statement)], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_core_needs_torch_alone():
    added = loaded_by("import bam") - loaded_by("import torch, torch.utils.flop_counter")
    assert "bam" in added
    foreign = added - set(sys.stdlib_module_names) - {"bam"}
    assert not foreign
    assert "rich" in loaded_by("import bam.training")  # the probe can tell


def test_functions_fit_a_screen():
    long = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.body[0].lineno > 40:
                long[f"{path.name}:{node.name}"] = node.end_lineno - node.body[0].lineno
    assert not long
