import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from bam.cli.grid import grid
from bam.recipes import ClassificationRecipe, VqaRecipe
from bam.records import TEST_ERROR, TEST_ERROR_TOP5, ClassResult, Measure, Record, environment
from bam.reports import summarize, summarize_classes, write_report
from bam.reports.summary import _others
from bam.reports.wording import warnings


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_numbers_of_threads_matter_on_cpus(records, device):
    for run in (run for runs in records.values() for run in runs):
        run.environment["device"] = device
    records["bam"][1].environment["threads"] = 1
    notes = [note for note in warnings(summarize(records)) if "the runs differ in threads (2; 1)" in note]
    assert len(notes) == (device == "cpu")


def test_summary(records):
    summary = summarize(records, {"none": 1.5, "bam": 2.5})
    none, bam = summary["variants"]
    assert none["mean"] == pytest.approx(21) and none["std"] == pytest.approx(1)
    assert bam["images_per_second"] == 1001 and bam["latency_ms"] == 2.5
    (comparison,) = summary["comparisons"]
    assert comparison["differences"] == pytest.approx([-1, -2, -1]) and comparison["seeds"] == [0, 1, 2]


def test_variants_that_cross_two_axes_have_a_table_of_both(records, tmp_path):
    names = ["none(cross_modal=none)", "none(cross_modal=dual)", 'bam(reduction=8, cross_modal="dual(hops=1)")']
    crossed = {name: [record("none", 0, 0.1 * k)] for k, name in enumerate(names, start=1)}
    for (run,) in crossed.values():
        run.recipe = VqaRecipe().as_dict()
    summary = summarize(crossed)
    write_report(tmp_path, summary | {"grid": grid(summary)}, "bam compare")
    text = (tmp_path / "report.md").read_text()
    assert "| test error by cross_modal | none | bam(reduction=8) |" in text.replace("\\", "")
    assert "| none | 10.00 % | - |" in text and "| dual(hops=1) | - | 30.00 % |" in text.replace("\\", "")
    assert "test error by cross_modal" in (tmp_path / "report.html").read_text()
    assert grid(summarize(records)) is None


def test_top5_error(records, tmp_path):
    for runs in records.values():
        for seed, run in enumerate(runs):
            run.final["test_error_top5"] = 0.01 * seed * (1 if run.sites else 2)
            run.measures.append(TEST_ERROR_TOP5)
    summary = summarize(records)
    none, bam = summary["further_measures"][0]["variants"]
    assert (none["mean"], bam["mean"], bam["difference"]) == pytest.approx((2, 1, -1))
    assert bam["interval"] == pytest.approx([-3.484, 1.484], abs=1e-3)  # t of 2 degrees: 4.303 / sqrt(3)
    write_report(tmp_path, summary, "bam compare")
    text = (tmp_path / "report.md").read_text()
    assert "| top-5 | 2.00 ± 2.00 % | 1.00 ± 1.00 % | -1.00 [-3.48, +1.48] |" in text
    assert "-1.00 [-3.48, +1.48]" in (tmp_path / "report.html").read_text()
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
    assert summary["variants"][0]["curves"][0] == [[2, 50.0, 1.0, None]]  # epoch 1 was not evaluated, times are unknown
    assert summary["equal_time"] is None and summary["variants"][0]["train_seconds"] is None
    write_report(tmp_path, summary, "bam compare")
    markdown = (tmp_path / "report.md").read_text()
    assert "**bam is better than none:** AP +10.03 percentage points, 95 % confidence interval" in markdown
    assert "AP: mean average" in markdown
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
        assert "No verdict on bam against none (one seed has no spread)" in text and "interval [" not in text


def test_files(records, tmp_path):
    summary = summarize(records, {"none": 1.5})
    write_report(tmp_path, summary, "bam compare --out 'a b'")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert rows[1] == "none,0,20.0000,1234,5000000,1001.0,1.5" and len(rows) == 7
    markdown = (tmp_path / "report.md").read_text()
    assert "| none | 1,234 | 5 M | 21.00 ± 1.00 % | 1,001 | 1.50 |\n| bam |" in markdown
    assert "| 1 | 22.00 | 20.00 |\n" in markdown
    assert "**No difference shown between bam and none:** test error -1.33 percentage points, 95 %" in markdown
    page = (tmp_path / "report.html").read_text()
    assert "&lt;chip&gt;" in page and "--out &#39;a b&#39;" in page and "<chip>" not in page


class Page(HTMLParser):
    """The order of a page's headings, the addresses it mentions, and its elements' attributes."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.addresses, self.charts, self.tags, self._heading = [], [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self._heading = tag == "h2"
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "svg":
            self.charts.append(attributes)
        if tag == "img":
            assert attributes["alt"]

    def handle_data(self, data):
        if self._heading:
            self.headings.append(data)
            self._heading = False


def written(folder, summary):
    write_report(folder, summary, "bam compare")
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


def with_classes(records, names=("cat", "dog")):
    counts = {"none": [(10, 3), (20, 4)], "bam": [(10, 2), (20, 4)]}
    results = {
        variant: {
            run.recipe["seed"]: [
                ClassResult(n, *c) for n, c in zip(names, counts.get(variant, counts["bam"]), strict=True)
            ]
            for run in runs
        }
        for variant, runs in records.items()
    }
    return summarize(records, dict.fromkeys(records, 2.0)) | {"classes": summarize_classes(results)}


def test_the_parts_of_the_page_in_order(records, tmp_path):
    text, markdown = written(tmp_path, with_classes(records))
    page = Page(text)
    expected = ["Results", "Paired differences", "Learning curves", "Cost against accuracy", "At equal training time"]
    expected += ["Classes", "Environment", "Repeat the comparison", "Recipe"]
    assert page.headings == expected and text.index('class="verdict') < text.index("<h2>")
    in_markdown = re.findall(r"^## (.*)$", markdown, re.MULTILINE)
    assert sorted(in_markdown) == sorted(expected) and in_markdown[:-2] == expected[:-2]
    (tmp_path / "more").mkdir()
    alone, _ = written(tmp_path / "more", summarize({"none": records["none"]}))
    assert not {"Paired differences", "Classes"} & set(Page(alone).headings)


def test_the_page_stands_alone(records, tmp_path):
    text, _ = written(tmp_path, with_classes(records))
    page = Page(text)
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text and "prefers-color-scheme:dark" in text
    assert not {"link", "iframe", "object"} & set(page.tags) and page.tags.count("script") == 1
    assert not re.search(r"https?:|url\(|@import|fetch\(", text)
    for address in page.addresses:
        assert (tmp_path / address).is_file(), "links lead to files of the report alone"
    assert len(page.charts) == 10 and all(chart["aria-label"] for chart in page.charts)
    assert len(text) < 100_000


def test_each_figure_has_its_files(records, tmp_path):
    text, markdown = written(tmp_path, with_classes(records))
    linked = {address for address in Page(text).addresses if address.startswith("figures/")}
    assert linked == {f"figures/{path.name}" for path in (tmp_path / "figures").iterdir()} and len(linked) == 20
    for name in linked:
        assert f"]({name})" in markdown
        if name.endswith(".svg"):
            root = ElementTree.parse(tmp_path / name).getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("aria-label")
            assert name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    written(tmp_path, summarize(records))
    assert not list((tmp_path / "figures").glob("classes.*")), "figures that a report lacks are no longer there"
    assert not list((tmp_path / "figures").glob("cost-latency.*"))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_the_numbers_of_figures_are_those_of_the_summary(records, tmp_path):
    summary = with_classes(records)
    written(tmp_path, summary)
    folder, (comparison,) = tmp_path / "figures", summary["comparisons"]
    rows = rows_of(folder / "differences.csv")
    assert [float(row["difference"]) for row in rows] == comparison["differences"]
    assert [float(rows[0][end]) for end in ("low", "high")] == comparison["interval"] and rows[0]["holm_low"] == ""
    curves = [
        (r["variant"], int(r["seed"]), int(r["epoch"]), float(r["percent"])) for r in rows_of(folder / "curves.csv")
    ]
    assert curves == [
        (v["name"], seed, *point[:2])
        for v in summary["variants"]
        for seed, curve in zip(v["seeds"], v["curves"], strict=True)
        for point in curve
    ]
    for name, key in (("parameters", "params"), ("macs", "macs"), ("latency", "latency_ms"), ("time", "train_seconds")):
        for row, variant in zip(rows_of(folder / f"cost-{name}.csv"), summary["variants"], strict=True):
            values = float(row[key]), float(row["mean_percent"]), float(row["std"])
            assert values == (variant[key], variant["mean"], variant["std"])
    times = [float(row["percent_at_equal_time"]) for row in rows_of(folder / "equal-time.csv")]
    assert times == [result for variant in summary["equal_time"]["variants"] for result in variant["results"]]
    classes = [float(row["difference"]) for row in rows_of(folder / "classes.csv")]
    assert (
        classes == [v["difference"] for one in summary["classes"] for v in one["variants"]] == pytest.approx([-10, 0])
    )


def test_several_variants_carry_holms_intervals(records, tmp_path):
    records["se"] = [record("se", seed, e) for seed, e in enumerate([0.25, 0.262, 0.255])]
    summary = summarize(records)
    text, markdown = written(tmp_path, summary)
    low, high = summary["comparisons"][1]["corrected_interval"]
    assert (
        f"<b>se is worse than none:</b> test error +4.57 percentage points, 95 % confidence interval [{low:+.2f}, "
        in text
    )
    assert "Corrected for 2 comparisons (Holm)" in text and "Corrected for 2 comparisons (Holm)" in markdown
    row = rows_of(tmp_path / "figures" / "differences.csv")[-1]
    assert [float(row["holm_low"]), float(row["holm_high"])] == [low, high]
    assert (
        f"95 % with all variants (Holm): [{low:+.2f}, {high:+.2f}]"
        in (tmp_path / "figures/differences.svg").read_text()
    )


MARKUP = 'evil:<script>alert(1)</script>(x="a&b|c*d")'


def test_markup_in_names_is_escaped(records, tmp_path):
    records[MARKUP] = records.pop("bam")
    records[MARKUP][0].recipe["name"] = "a<i>b"
    text, markdown = written(tmp_path, with_classes(records, ("<b>cat</b>", "d&g\x01")))
    assert Page(text).tags.count("script") == 1 and "<b>cat" not in text and "alert(1)&lt;/script&gt;" in text
    assert "b" in Page(text).tags and not {"i"} & set(Page(text).tags)
    for path in (tmp_path / "figures").glob("*.svg"):
        root = ElementTree.parse(path).getroot()  # it is well-formed
        assert not [one for one in root.iter() if one.tag.endswith(("}script", "}b"))]
    outside_code = re.sub(r"```.*?```|^    .*$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside_code and "<b>" not in outside_code
    table = [line for line in markdown.splitlines() if line.startswith("| evil")]
    assert table and all(r"a&amp;b\|c\*d" in line for line in table)
    assert [row["class"] for row in rows_of(tmp_path / "figures" / "classes.csv")] == ["<b>cat</b>", "d&g\x01"]


@pytest.mark.parametrize(("seconds", "unit"), [(0.01, "s"), (100, "min"), (100_000, "h")])
def test_training_time_has_a_unit_that_fits(records, tmp_path, seconds, unit):
    for run in (run for runs in records.values() for run in runs):
        for row in run.history:
            row["seconds"] = seconds * (1 + run.recipe["seed"] / 10)
    written(tmp_path, summarize(records))
    assert f"training time per run, {unit}<" in (tmp_path / "figures" / "cost-time.svg").read_text()


def test_recipes_without_fields_of_classification(records, tmp_path):
    for run in (run for runs in records.values() for run in runs):
        for name in ("validation", "task"):
            del run.recipe[name]
    text, markdown = written(tmp_path, summarize(records))
    assert "after the last epoch" in text and "after the last epoch" in markdown
    summary = summarize(records)
    summary["recipe"] = summary["recipe"] | {"validation": 0.1}
    assert "at the epoch that held-out images choose" in written(tmp_path, summary)[0]


def test_json_is_strict(records, tmp_path):
    records["bam"][0].history[0]["train_loss"] = float("nan")
    records["bam"][0].history[1]["train_loss"] = float("inf")
    summary = summarize(records)
    written(tmp_path, summary)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse) == summary
    assert summary["variants"][1]["curves"][0][0][2] is None
    assert "nan" not in (tmp_path / "figures" / "loss.svg").read_text()


def test_code_with_backticks_stays_code(records, tmp_path):
    write_report(tmp_path, summarize(records), "bam compare --attention '```x'")
    assert "````\nbam compare --attention '```x'\n````" in (tmp_path / "report.md").read_text()


def test_the_environment_and_what_differed_in_it(records, tmp_path):
    records["bam"][2].environment = records["bam"][2].environment | {"precision": "fp32", "versions": {"torch": "2.1"}}
    text, markdown = written(tmp_path, summarize(records))
    assert "<td>precision<td>bf16" in text and "<td>precision, in other runs<td>fp32" in text
    assert "| versions, in other runs | torch 2.1 |" in markdown and "| torch | 2 |" in markdown


def test_many_long_variants_and_classes(tmp_path):
    names = ["none", *(f"bam(reduction={k}, sites=a-very-long-name-of-a-layer, identity=true)" for k in range(9))]
    records = {
        name: [record(name if name == "none" else "bam", seed, 0.2 + 0.01 * seed) for seed in range(2)]
        for name in names
    }
    counts = [ClassResult(f"class {k}", 10, k % 7) for k in range(300)]
    classes = summarize_classes({name: {0: counts, 1: counts} for name in names})
    text, _ = written(tmp_path, summarize(records) | {"classes": classes})
    assert "digits/small: none against 9 variants</h1>" in text and "The table shows 200 of 300" in text
    assert len(text) < 700_000 and len(rows_of(tmp_path / "figures" / "classes.csv")) == 2700
    assert 'stroke-dasharray="6 3"' in text, "lines differ once the colours come again"


def test_pictures_stand_inside_the_page(records, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "7.png").write_bytes(b"no real picture")
    summary = summarize(records) | {"pictures": [{"file": "pictures/7.png", "caption": "7: <site>"}]}
    write_report(tmp_path, summary, "bam compare")
    page = (tmp_path / "report.html").read_text()
    encoded = re.search(r'src="data:image/png;base64,([^"]+)" alt="7: &lt;site&gt;"', page)[1]
    assert base64.b64decode(encoded) == b"no real picture"
    assert "![7: &lt;site&gt;](pictures/7.png)" in (tmp_path / "report.md").read_text()


def test_the_gates_kernel_is_recorded_and_compared_also_after_an_old_record():
    usual, other = (environment("cpu", "fp32", kernel) for kernel in ("torch", "inductor"))
    old = {name: value for name, value in usual.items() if name != "kernel"}
    assert _others(usual, [usual, other]) == _others(old, [old, usual, other]) == {"kernel": ["inductor"]}
    assert _others(old, [old, usual]) == {}
