"""What compare's report and `bam examine` say of attention, on trained networks."""

import csv
import json

import pytest

from bam import cli

OPTIONS = '{"num_train": 96, "num_test": 40, "canvas": 16}'
TRAINING = ["--recipe", "digits/small", "--epochs", "1", "--batch-size", "16", "--data-options", OPTIONS]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "out"
    words = ["compare", *TRAINING, "--attention", "none,bam,bam_channel", "--seeds", "1", "--out", str(out)]
    assert cli.main(words) == 0
    return out


def test_a_comparison_looks_at_the_attention_of_each_variant(comparison):
    assert sorted(path.name for path in (comparison / "attention").iterdir()) == ["bam", "bam_channel"]
    html, markdown = (comparison / "report.html").read_text(), (comparison / "report.md").read_text()
    summary = json.loads((comparison / "summary.json").read_text())
    for look in summary["attention"]:
        folder = comparison / "attention" / look["name"]
        assert look["num_images"] == 40 and sorted(look["pointing"]) == ["layer1", "layer2"]
        figure = f"figures/channels-{look['name']}-layer2"
        assert (
            f'href="{figure}.csv"' in html and f"({figure}.svg)" in markdown and (comparison / f"{figure}.csv").exists()
        )
        hits = look["pointing"]["layer1"]["hits"]["attention"]
        low, high = hits["interval"]
        assert 0 <= low <= hits["mean"] <= high <= 1
        shown = f"{100 * hits['mean']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        assert shown in html and shown in markdown
        assert f'href="attention/{look["name"]}/gallery.html"' in html and (folder / "gallery.html").exists()
        assert len(look["pictures"]) == 3 and all((comparison / p["file"]).exists() for p in look["pictures"])
        seen = json.loads((folder / "look.json").read_text())
        assert len(seen["views"]) == 24 and [s["site"] for s in seen["views"][0]["sites"]] == ["layer1", "layer2"]
        assert seen["ablations"]["accuracy"]["mean"] == look["ablations"]["accuracy"]["mean"]
    assert summary["attention"][0]["statistics"]["layer1"]["branches"] is not None
    assert summary["attention"][1]["statistics"]["layer1"]["branches"] is None  # SE has no spatial branch


def test_the_report_page_looks_right(comparison, looks_right, visit):
    looks_right(comparison / "report.html", "report")
    page = visit(comparison / "report.html")
    page.click("text=Gallery of test images >> nth=0")
    assert page.text_content("h1") == "cifar/resnet8 with bam, seed 0: what it attends to"


def test_the_network_is_looked_at_once(comparison):
    look = comparison / "attention" / "bam" / "look.json"
    content = json.loads(look.read_text())
    look.write_text(json.dumps(content | {"num_images": 7}))
    words = ["compare", *TRAINING, "--attention", "none,bam,bam_channel", "--seeds", "1", "--out", str(comparison)]
    assert cli.main(words) == 0
    assert json.loads(look.read_text())["num_images"] == 7
    look.write_text(json.dumps(content | {"num_images": 7, "weights": "those of another run"}))
    assert cli.main(words) == 0
    assert json.loads(look.read_text()) == content


def test_examine(comparison, tmp_path, capsys):
    capsys.readouterr()
    words = ["examine", str(comparison / "bam-seed0"), "--limit", "12", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    results = json.loads((tmp_path / "examination.json").read_text())
    assert results["num_images"] == 12 and results["part"] == "test" and results["data"] == "digits"
    for site in ("layer1", "layer2"):
        assert results["pointing"][site]["hits"]["verdict"] in text
        assert results["faithfulness"][site]["verdict"] in text
        assert results["ablations"]["sites_off"][site]["verdict"] in text
    assert "corrected for 2 sites (Holm)" in text
    assert results["pointing"]["layer1"]["hits"]["differences"]["chance"]["holm_p"] is not None
    assert "most selective channels" in text
    with open(tmp_path / "figures" / "channels-layer2.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = results["statistics"]["layer2"]["classes"]
    assert 0 < len(rows) <= 16 and (tmp_path / "figures" / "channels-layer2.svg").exists()
    for row in rows:
        channel = int(row["channel"])
        assert float(row["selectivity"]) == classes["selectivity"][channel]
        means = [each for each in classes["means"] if each is not None]
        assert [float(value) for value in list(row.values())[2:]] == [mean[channel] for mean in means]
    assert "channel branch alone" in text and "12 images, accuracy" in text
    assert cli.main(words) == 0  # the same images again
    assert json.loads((tmp_path / "examination.json").read_text()) == results


def test_examine_says_what_is_wrong(comparison, tmp_path, capsys):
    def message(*words):
        assert cli.main(["examine", *words, "--out", str(tmp_path / "out")]) == 1
        return capsys.readouterr().err

    assert "has no attention" in message(str(comparison / "none-seed0"))
    assert "limit must be at least 1" in message(str(comparison / "bam-seed0"), "--limit=-3")
    assert "no complete run" in message(str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_galleries_show_all_classes(comparison):
    views = json.loads((comparison / "attention" / "bam" / "look.json").read_text())["views"]
    assert len({view["name"].partition(": ")[2] for view in views}) > 5
