"""The page docs/comparison.md, made from folders of comparisons."""

import importlib.util
from pathlib import Path

import pytest

from bam.reports import summarize, write_report
from tests.reports.test_report import record

SCRIPT = Path(__file__).parents[2] / "docs" / "comparison.py"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The script, which writes into a folder of its own."""
    spec = importlib.util.spec_from_file_location("comparison", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGE", tmp_path / "comparison.md")
    return module


def test_a_section_has_verdicts_intervals_and_the_command(page, tmp_path):
    errors = {"none": [0.20, 0.22, 0.21], "bam": [0.10, 0.13, 0.10], "se": [0.19, 0.23, 0.20], "eca": [0.3, 0.3, 0.3]}
    records = {name: [record(name, seed, error) for seed, error in enumerate(row)] for name, row in errors.items()}
    records["eca"][0].failure, records["eca"][0].final = {"reason": "training diverged"}, {}
    write_report(tmp_path, summarize(records, dict.fromkeys(errors, 2.0)), "")
    text = "\n".join(page.section(tmp_path))
    assert "**better:** `bam`; **worse:** none of them; **no difference shown:** `se`" in text
    assert "**no verdict:** `eca`." in text
    assert "| `bam` | 1,234 | 5 M | x 1.00 | x 1.00 | 11.00 ± 1.73 % | -10.00 " in text
    assert "bam compare --recipe digits/small --attention none,bam,se,eca --seeds 3" in text
    assert (tmp_path / "comparison-digits-small.svg").is_file()


def test_a_new_comparison_replaces_only_its_own_section(page, tmp_path):
    records = {name: [record(name, seed, 0.1) for seed in range(3)] for name in ("none", "bam")}
    write_report(tmp_path, summarize(records, dict.fromkeys(records, 2.0)), "")
    page.PAGE.write_text("# Old\n\n## digits/other\n\nfirst\n\n## digits/small\n\nsecond\n")
    page.main([str(tmp_path)])
    written = page.PAGE.read_text()
    assert (
        written.startswith("# Attention modules compared")
        and "## digits/other\n\nfirst\n\n## digits/small\n" in written
    )
    assert "second" not in written and "| `bam` |" in written
    page.main([])
    assert page.PAGE.read_text() == written
