import functools

import pytest
from torchvision import models

from bam.attention import AttentionSpec
from bam.coverage import CHECKS, SHORT, Candidate, Row, candidates, check, survey, write_page
from bam.coverage.checks import _sites
from bam.coverage.survey import read
from bam.models import build
from tests.coverage import networks


@pytest.mark.parametrize(
    ("network", "failed", "message"),
    [
        (networks.Small, None, ""),
        (networks.Restless, "identity", "the output has changed"),
        (networks.Detached, "gradients", "one: scale has no gradient"),
        (networks.Fixed, "export", ""),
    ],
)
def test_each_check_can_fail(network, failed, message):
    row = check("mine", "nets", "net", network)
    assert (row.sites, row.side, row.params) == ("pass", 96, 808) and row.found.startswith("one (8 at 1/1)")
    assert row.passed == (failed is None) and not row.refused
    if failed:
        reached = list(CHECKS).index(failed)
        assert [getattr(row, name) for name in CHECKS][reached:] == ["fail"] + [""] * (len(CHECKS) - reached - 1)
        assert row.reason.startswith(f"{failed}: ") and message in row.reason


@pytest.mark.parametrize(
    ("attention", "outcomes"),
    [
        ("se(sites=bottlenecks)", {"identity": "pass", "levels": "none listed"}),
        ("torch.nn:Identity", {"identity": "not claimed", "gradients": "no parameters", "levels": "none listed"}),
        ("eca", {"identity": "pass", "levels": "other sites"}),
        ("deformable", {"identity": "up to rounding", "levels": "other sites"}),
    ],
)
def test_other_attention(attention, outcomes):
    row = check("mine", "resnet", "resnet8", lambda: build("cifar/resnet8"), attention)
    assert row.passed, row.reason
    assert {name: getattr(row, name) for name in outcomes} == outcomes


def test_a_map_that_the_network_changes_in_place_is_compared_as_it_was():
    row = check("torchvision", "nets", "net", networks.InPlace)
    assert row.ways == "pass", row.reason


def test_modules_that_torchvisions_extractor_does_not_look_into_are_compared_as_a_whole():
    row = check("torchvision", "mobilenetv3", "small", models.mobilenet_v3_small, "deformable")
    assert row.passed, row.reason


def test_stochastic_depth_hides_no_gradients():
    build = functools.partial(models.efficientnet_b0, stochastic_depth_prob=0.99)
    row = check("torchvision", "efficientnet", "b0", build, "simam")
    assert row.passed, row.reason


def test_networks_without_down_sampling_do_not_count():
    row = check("mine", "nets", "flat", networks.Flat)
    assert row.refused and not row.passed and "has no down-sampling" in row.reason


def test_whatever_a_network_raises_is_reported():
    def build():
        raise ZeroDivisionError("as it happens")

    row = check("mine", "nets", "net", build)
    assert (row.sites, row.reason) == ("fail", "sites: ZeroDivisionError: as it happens")


def test_levels_of_timm():
    import timm

    assert check("timm", "resnet", "x", lambda: timm.create_model("resnet10t")).levels == "pass"


def test_a_survey_goes_on_where_it_stopped_and_outlives_dead_and_slow_networks(tmp_path, capsys):
    wanted = [
        Candidate("mine", "nets", f"tests.coverage.networks:{name}") for name in ("Small", "Flat", "dying", "slow")
    ]
    path = tmp_path / "coverage.csv"
    survey(wanted[:1], path, jobs=1, timeout=300)
    before = path.read_text()
    rows = {row.name.partition(":")[2]: row for row in survey(wanted, path, jobs=1, timeout=9)}
    assert path.read_text().startswith(before) and before.count("Small") == 1 == path.read_text().count("Small")
    assert rows["Small"].passed and rows["Flat"].refused
    assert rows["dying"].reason.startswith("sites: the process died") and "not done after 9 s" in rows["slow"].reason
    assert rows == {row.name.partition(":")[2]: row for row in read(path)}
    survey(wanted[:1], path, jobs=1, again=True)
    assert path.read_text().count("Small") == 2 and len(read(path)) == 4
    write_page(tmp_path / "coverage.md", path, "bam coverage")
    page = (tmp_path / "coverage.md").read_text()
    assert "4 networks, of which 3 count; 1 of them pass every check (33.3 %)" in page
    assert "- tests.coverage.networks:dying, bam: sites: the process died" in page
    assert "| nets | tests.coverage.networks:Small | bam | one (8 at 1/1) | pass | none listed |" in page


def test_a_survey_of_two_modules_has_a_row_for_each(tmp_path):
    small = Candidate("mine", "nets", "tests.coverage.networks:Small")
    path, wanted = tmp_path / "coverage.csv", [small, small._replace(attention="bam_channel")]
    survey(wanted[:1], path, jobs=1, timeout=300)
    rows = survey(wanted, path, jobs=1, timeout=300)
    assert [row.attention for row in rows] == ["bam", "bam_channel"] and all(row.passed for row in rows)
    assert len(path.read_text().splitlines()) == 3  # the first was not tried again
    write_page(tmp_path / "coverage.md", path, "bam coverage")
    page = (tmp_path / "coverage.md").read_text()
    assert "1 networks with 2 attention modules" in page and "| bam_channel | 1 | 1 |" in page


def test_networks_of_the_short_survey_exist():
    assert set(SHORT) <= {candidate.name for candidate in candidates(every=True)}


def test_networks_without_the_places_of_a_module_do_not_count():
    row = check("mine", "nets", "vgg11", lambda: build("vgg11"), "se")
    assert row.refused and "has no residual blocks" in row.reason


@pytest.mark.parametrize(("network", "attention"), [("vgg11", "deformable"), ("cifar/resnet8", "eca")])
def test_networks_with_the_places_of_a_module_count(network, attention):
    assert _sites(lambda: build(network), AttentionSpec.parse(attention))[0]


def test_a_module_that_fails_to_start_as_the_identity_fails(monkeypatch):
    def refuse(identity, *options):
        if identity:
            raise ValueError("no identity")

    monkeypatch.setattr("bam.attention.eca.identity_scale", refuse)
    row = check("mine", "resnet", "resnet8", lambda: build("cifar/resnet8"), "eca")
    assert not row.passed and "no identity" in row.reason


def test_a_table_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "coverage.csv").write_text("library,family,name\n")
    with pytest.raises(ValueError, match="has other columns"):
        survey([], tmp_path / "coverage.csv")


def test_candidates():
    every = candidates()
    assert len([one for one in every if one.library == "torchvision"]) >= 80
    families = [one.family for one in every if one.library == "timm"]
    assert len(families) == len(set(families)) > 90 and len(candidates("timm", every=True)) > 1000
    assert Candidate("timm", "inception_v3", "timm/inception_v3") in every


def test_a_row_passes_only_if_every_check_does():
    row = Row("a", "b", "c", **dict.fromkeys(CHECKS, "pass"))
    assert row.passed
    for name in CHECKS:
        setattr(row, name, "")
        assert not row.passed
        setattr(row, name, "pass")
