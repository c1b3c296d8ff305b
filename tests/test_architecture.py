"""The house: who may import whom, and what the core pulls in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bam

ROOT = Path(bam.__file__).parent
LADDER = [  # each room may import those before it
    "files", "tensors", "kernels", "attention", "dryrun", "costs", "placement", "surgery", "pixels",
    "models", "data", "recipes", "records", "tasks", "paper", "reports", "training", "export", "coverage", "timm",
    "flags", "cli", "__main__",
]  # fmt: skip
CORE = {"files", "tensors", "kernels", "attention", "dryrun", "costs", "placement", "surgery"}
PROBE = "import sys; {}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module] if node.module != "bam" else [f"bam.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        yield from (module.split(".")[1] for module in modules if module.startswith("bam."))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__init__":
        assert set(imported_rooms(path)) <= CORE
        return
    for other in set(imported_rooms(path)) - {"__version__"}:
        assert LADDER.index(other) <= LADDER.index(room), f"{room} imports {other}"


def test_reports_never_see_models():
    rooms = {room for path in (ROOT / "reports").glob("*.py") for room in imported_rooms(path)}
    assert rooms <= {"reports", "records", "files", "costs"}


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
