"""Errors of single classes: the file of a run, and their summary."""

import pytest

from bam.records import CLASSES, ClassResult, classes_csv, read_classes
from bam.reports import summarize_classes


def test_the_file_of_a_run(tmp_path):
    assert read_classes(tmp_path) == []
    names = ("cat", 'a "b", <c>', "line\nbreak")
    (tmp_path / CLASSES).write_text(classes_csv(names, [(5, 1), (0, 0), (7, 7)]))
    assert read_classes(tmp_path) == [ClassResult(n, *c) for n, c in zip(names, [(5, 1), (0, 0), (7, 7)], strict=True)]
    for damaged in ("", "class,images\n", "class,images,errors\ncat,1\n", "class,images,errors\ncat,1,x\n"):
        (tmp_path / CLASSES).write_text(damaged)
        with pytest.raises(ValueError, match="classes.csv is damaged"):
            read_classes(tmp_path)


def test_differences_by_hand():
    """Errors of 30 and 10 % against 20 and 20 %: differences -10 and 10. A class without test images is left out."""
    results = {
        "none": {
            0: [ClassResult("cat", 10, 3), ClassResult("elk", 0, 0)],
            1: [ClassResult("cat", 10, 1), ClassResult("elk", 0, 0)],
        },
        "bam": {
            0: [ClassResult("cat", 10, 2), ClassResult("elk", 0, 0)],
            1: [ClassResult("cat", 10, 2), ClassResult("elk", 0, 0)],
        },
    }
    (one,) = summarize_classes(results)
    assert (one["name"], one["images"], one["baseline_error"]) == ("cat", 10, pytest.approx(20))
    (bam,) = one["variants"]
    assert bam["error"] == pytest.approx(20) and bam["difference"] == pytest.approx(0)
    assert bam["interval"] == pytest.approx([-127.062047, 127.062047])


def test_what_cannot_be_compared():
    cat, dog = [ClassResult("cat", 1, 0)], [ClassResult("dog", 1, 0)]
    assert summarize_classes({}) == summarize_classes({"none": {0: []}, "bam": {0: []}}) == []
    assert (
        summarize_classes({"none": {0: cat}, "bam": {0: dog}})
        == summarize_classes({"none": {0: cat}, "bam": {1: cat}})
        == []
    )
    assert len(summarize_classes({"none": {0: cat, 1: cat}, "bam": {0: cat, 1: []}})) == 1
