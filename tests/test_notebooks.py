"""The notebooks run, and keep what they printed and drew."""

import os
import shlex
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bam import cli
from bam.flags import parse_flags

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@NOTEBOOKS
def test_they_are_small_keep_their_outputs_and_call_what_exists(path):
    notebook = nbformat.read(path, 4)
    assert path.stat().st_size < 300_000
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    for cell in code_of(notebook):
        if cell.source.startswith("%%bash\n"):
            _, bam, verb, *words = shlex.split(cell.source.replace("\\\n", ""))
            assert bam == "bam" and isinstance(parse_flags(cli.VERBS[verb], words), dict)  # leaves with 2 if unknown


@pytest.mark.slow
@NOTEBOOKS
def test_they_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    NotebookClient(nbformat.read(path, 4), timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
