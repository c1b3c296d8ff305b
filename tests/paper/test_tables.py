"""The paper's tables counted again: exact parameters, multiply-adds to the printed digits; one step of each row."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import bam
from bam.models import build
from bam.paper import NOTES, TABLES, Row, count, markdown, rounds_to, unmet, write_tables
from bam.recipes import RECIPES, Recipe, variant
from bam.training.optimization import optimizer

ROWS = [row for rows in TABLES.values() for row in rows]
#: Images of an epoch, by the folder of the recipe.
IMAGES = {"cifar100": 50_000, "imagenet": 1_281_167, "voc2007": 16_551, "coco": 118_287}
DIFFERENT = {(row.recipe, row.variant): row for row in ROWS}
#: Networks that differ from another row's in depth or width alone.
LARGER = {"cifar100/resnet101", "cifar100/wide_resnet28_10", "cifar100/resnext29_16x64d", "imagenet/resnet101"}
LARGER |= {"imagenet/wide_resnet18_2.0", "imagenet/mobilenet_0.7", "imagenet/mobilenet_192"}
PAGE = Path(__file__).parents[2] / "docs" / "reproducing.md"


QUICK = ("ImageNet-1K", "Ablation: one more block in the place of BAM (CIFAR-100)", "VOC 2007 (detection)")


@pytest.mark.parametrize("titles", [QUICK, pytest.param(tuple(TABLES), marks=pytest.mark.slow)], ids=["some", "all"])
def test_the_page_shows_what_is_counted(titles):
    for title in titles:
        assert markdown([title]) in PAGE.read_text(), "write it anew: bam paper --out docs/reproducing.md"


@pytest.mark.slow
def test_every_printed_count_is_met_or_explained():
    missed = {(row.recipe, row.variant, printed) for row in ROWS for printed in unmet(row, count(row))}
    assert missed == set(NOTES)


@pytest.mark.parametrize(
    ("recipe", "text", "params", "released", "macs", "modern"),
    [  # computed independently of this package, from the architectures and from the authors' code
        ("cifar100/resnet50", "bam", 24_066_909, 24_063_319, "1.2495", "1.3250"),
        ("cifar100/resnet50", "bam(branch=channel)", 24_066_909 - 183_913, 23_879_412, "1.2227", "1.2982"),
        ("cifar100/resnet50", "bam(branch=spatial)", 24_066_909 - 177_744, 23_889_159, "1.2493", "1.3248"),
        ("imagenet/resnet50", "bam", 25_918_689, 25_915_099, "3.9401", "4.1713"),
        ("imagenet/resnet18", "bam", 11_713_405, 11_712_503, "1.8192", "1.8192"),
        ("cifar100/wide_resnet28_8", "none", 23_401_012, 23_401_012, "3.3601", "3.3601"),
        ("cifar100/resnext29_8x64d", "block", 37_311_908, 37_311_908, "6.1256", "6.5282"),
        ("cifar100/wide_resnet28_8", "block", 24_877_108, 24_877_108, "3.9641", "3.9641"),
        ("cifar100/resnet50", "block", 25_172_900, 25_172_900, "1.4364", "1.5119"),
        ("voc2007/ssd300_vgg16", "none", 26_285_486, 26_285_486, "31.3735", "31.3735"),
    ],
)
def test_golden_counts(recipe, text, params, released, macs, modern):
    counts = count(DIFFERENT[recipe, text])
    assert (counts.params, counts.released_params) == (params, released)
    assert (f"{counts.macs / 1e9:.4f}", f"{counts.modern_macs / 1e9:.4f}") == (macs, modern)


@pytest.mark.parametrize(
    ("printed", "value", "same"), [("0.8", 0.8000, True), ("0.84", 0.8355, True), ("9.9", 9.96, False)]
)
def test_printed_digits(printed, value, same):
    assert rounds_to(printed, value) is same


@pytest.mark.parametrize("name", sorted({row.recipe for row in ROWS}))
def test_recipes_tell_what_is_printed_and_what_it_takes(name):
    doc = " ".join(RECIPES[name].__doc__.split())
    if RECIPES[name]().task == "classification":
        assert f"{DIFFERENT[name, 'none'].result} %, with BAM {DIFFERENT[name, 'bam'].result} %" in doc
    for row in ROWS:
        if row.recipe == name and row.variant != "block":
            assert all(printed in doc for printed in row.result.split(" / ")), row
    recipe, data = RECIPES[name](), IMAGES[name.partition("/")[0]]
    plain = count(DIFFERENT[name, "none"]).macs
    hours = 6 * plain * data * recipe.epochs / 60e12 / 3600  # 6 operations a multiply-add, 60 TFLOP/s
    stated_hours = float(doc.partition("About ")[2].partition(" GPU hour")[0])
    assert stated_hours == pytest.approx(hours, abs=0.06 if hours < 5 else 0.6)


def test_a_printed_count_without_a_reason_is_an_error():
    row = Row("ResNet18", "imagenet/resnet18", "none", "11.70")
    with pytest.raises(KeyError):
        unmet(row, count(row))


def test_a_page_without_marks_is_reported(tmp_path):
    (tmp_path / "page.md").write_text("# A page\n")
    with pytest.raises(ValueError, match="page.md has no place for the tables"):
        write_tables(tmp_path / "page.md")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, marks=[] if text != "none" and name not in LARGER else pytest.mark.slow)
        for name, text in DIFFERENT
        if text != "block" and RECIPES[name]().task == "classification"
    ],
)
def test_a_step_of_every_row(name, text):
    """Build the row's network, attach, and take one optimisation step on small images."""
    recipe = variant(RECIPES[name](), text)
    side, classes = (16, 100) if name.startswith("cifar100") else (64, 1000)
    model = build(recipe.model, classes)
    if not recipe.attention.is_none:
        bam.attach(model, recipe.attention, image=side)
        assert len(bam.attended(model)) == number_of_sites(recipe)
    before = {key: value.clone() for key, value in model.named_parameters()}
    loss = F.cross_entropy(model(torch.randn(2, 3, side, side)), torch.tensor([1, 2]))
    loss.backward()
    optimizer(model, recipe).step()
    assert torch.isfinite(loss)
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert not [key for key in still if key.endswith("weight")], "not trained"


def number_of_sites(recipe: Recipe) -> int:
    """As the paper's counts show."""
    if recipe.attention.sites == ("every block",):
        return {"resnet50_v1": 16, "preresnet110_v1": 54, "wide_resnet28_8": 12}.get(recipe.model[6:], 9)
    three_stages = ("preresnet", "wide_resnet28", "resnext29", "densenet", "squeezenet")
    return 2 if any(word in recipe.model for word in three_stages) else 3
