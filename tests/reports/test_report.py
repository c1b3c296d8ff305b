import base64
import json
import re

import pytest

from bam.recipes import ClassificationRecipe
from bam.records import TEST_ERROR, TEST_ERROR_TOP5, Measure, Record
from bam.reports import summarize, write_report


def record(attention, seed, error, complete=True):
    row = {"epoch": 1, "train_loss": 1.0, "train_error": 0.5, "test_loss": 1.0, "test_error": error, "seconds": 1.0}
    row["images_per_second"] = 1000.0 + seed
    return Record(
        recipe=ClassificationRecipe(name="digits/small", attention=attention, seed=seed).as_dict(),
        environment={
            "device": "cpu",
            "processor": "<chip>",
            "threads": 2,
            "precision": "bf16",
            "versions": {"torch": "2"},
        },
        cost={"params": 1234, "macs": 5_000_000},
        sites=["layer1"] if attention != "none" else [],
        history=[row, row | {"epoch": 2}],
        final={k: row[k] for k in ("test_error", "images_per_second")} if complete else {},
        measures=[TEST_ERROR] if complete else [],
    )


@pytest.fixture
def records():
    errors = {"none": [0.20, 0.22, 0.21], "bam": [0.19, 0.20, 0.20]}
    return {name: [record(name, seed, e) for seed, e in enumerate(values)] for name, values in errors.items()}


def test_summary(records):
    summary = summarize(records, {"none": 1.5, "bam": 2.5})
    none, bam = summary["variants"]
    assert none["mean"] == pytest.approx(21) and none["std"] == pytest.approx(1)
    assert bam["images_per_second"] == 1001 and bam["latency_ms"] == 2.5
    (comparison,) = summary["comparisons"]
    assert comparison["differences"] == pytest.approx([-1, -2, -1]) and comparison["seeds"] == [0, 1, 2]


def test_top5_error(records, tmp_path):
    for runs in records.values():
        for seed, run in enumerate(runs):
            run.final["test_error_top5"] = 0.01 * seed
            run.measures.append(TEST_ERROR_TOP5)
    summary = summarize(records)
    assert [v["means"]["test_error_top5"] for v in summary["variants"]] == pytest.approx([1, 1])
    write_report(tmp_path, summary, "bam compare")
    assert "| 21.00 ± 1.00 % | 1.00 % |" in (tmp_path / "report.md").read_text()
    del records["bam"][0].final["test_error_top5"]  # what one run lacks is not compared
    assert [measure["key"] for measure in summarize(records)["measures"]] == ["test_error"]


def test_a_measure_that_is_better_when_higher(records, tmp_path):
    measure = Measure("test_ap", "AP", "mean average precision", higher_is_better=True)
    for name, runs in records.items():
        for run in runs:
            run.final = {
                "test_ap": 0.5 + 0.1 * (name == "bam") + 0.01 * run.recipe["seed"] ** 2,
                "images_per_second": 5.0,
            }
            run.measures = [measure]
            run.history = [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0, "test_ap": 0.5}]
    records["bam"][0].final["test_ap"] += 0.001  # else all differences were equal
    summary = summarize(records)
    assert summary["comparisons"][0]["verdict"] == "better"
    assert summary["variants"][0]["curves"][0] == [[2, 50.0, 1.0]]  # the first epoch was not evaluated
    write_report(tmp_path, summary, "bam compare")
    markdown = (tmp_path / "report.md").read_text()
    assert "**bam: better.** AP +10.03 percentage points against none" in markdown and "AP: mean average" in markdown
    assert "(right is better)" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "summary.csv").read_text().startswith("variant,seed,test_ap_percent,")


def test_only_complete_pairs_count(records):
    records["bam"][1] = record("bam", 1, 0.9, complete=False)
    comparison = summarize(records)["comparisons"][0]
    assert comparison["seeds"] == [0, 2]
    records["bam"] = []
    with pytest.raises(ValueError, match="no run of 'bam' is complete"):
        summarize(records)


def test_one_seed_says_so(records, tmp_path):
    write_report(tmp_path, summarize({name: runs[:1] for name, runs in records.items()}), "bam compare")
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "no verdict: one seed has no spread" in text and "interval [" not in text


def test_files(records, tmp_path):
    summary = summarize(records, {"none": 1.5})
    write_report(tmp_path, summary, "bam compare --out 'a b'")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert rows[1] == "none,0,20.0000,1234,5000000,1001.0,1.5" and len(rows) == 7
    markdown = (tmp_path / "report.md").read_text()
    assert "| none | 1,234 | 5 M | 21.00 ± 1.00 % | 1,001 | 1.50 |\n| bam |" in markdown
    assert "| 1 | 22.00 | 20.00 |\n" in markdown
    assert "**bam: no difference shown with n=3.** Test error -1.33 percentage points against none, 95 %" in markdown
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2 and "&lt;chip&gt;" in page and "--out &#39;a b&#39;" in page
    assert not re.search(r'(src|href)="(?!#)', page.replace("xlink:href", "")), "the page must stand alone"


def test_pictures_stand_inside_the_page(records, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "7.png").write_bytes(b"no real picture")
    summary = summarize(records) | {"pictures": [{"file": "pictures/7.png", "caption": "7: <site>"}]}
    write_report(tmp_path, summary, "bam compare")
    page = (tmp_path / "report.html").read_text()
    encoded = re.search(r'src="data:image/png;base64,([^"]+)" alt="7: &lt;site&gt;"', page)[1]
    assert base64.b64decode(encoded) == b"no real picture"
    assert "![7: <site>](pictures/7.png)" in (tmp_path / "report.md").read_text()
