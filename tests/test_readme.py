"""The README's blocks are run, and what they print is what the README says."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from bam import cli
from bam.flags import parse_flags

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_python_blocks_print_the_text_after_them():
    namespace: dict = {}
    checked = 0
    for (language, code), (following, expected) in zip(BLOCKS, BLOCKS[1:], strict=False):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            assert following == "text" and printed.getvalue() == expected
            checked += 1
    assert checked == 3


def test_console_blocks(capsys):
    (console,) = [text for language, text in BLOCKS if language == "console"]
    for call in console.split("$ ")[1:]:
        command, _, expected = call.partition("\n")
        assert cli.main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out == expected


def shell_commands():
    for language, text in BLOCKS:
        if language == "sh":
            yield from (line.partition("  #")[0].strip() for line in text.splitlines())


@pytest.mark.parametrize("command", list(shell_commands()))
def test_shell_commands_exist(command, tmp_path, monkeypatch):
    """make targets are there, and every call of `bam` is understood (without running it)."""
    program, *words = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert program == "bam"
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "runs" / "mine" / "recipe.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("epochs: 8\n")
    assert set(parse_flags(cli.VERBS[words[0]], words[1:])) >= ({"recipe"} if len(words) > 1 else set())


def test_example_runs(capsys):
    exec((ROOT / "examples" / "add_your_own_attention.py").read_text(), {"__name__": "__main__"})
    told = capsys.readouterr().out
    assert "unchanged at insertion: True" in told and "with Gate: 11,689,960 parameters" in told
