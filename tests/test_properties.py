"""Properties that hypothesis tries on random input: round trips, invariances, and readers of damaged files."""

import copy
import json
import math
import pickle
import string

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import bam
from bam.attention import AttentionSpec, split_specs
from bam.data import load_questions
from bam.data.boxes.coco_file import read_instances
from bam.data.boxes.voc import CLASSES as CLASSES_OF_VOC
from bam.data.boxes.voc_file import read_annotation
from bam.data.cifar100 import cifar100
from bam.export.config import NetworkConfig
from bam.recipes import ClassificationRecipe, DetectionRecipe, Recipe
from bam.records import CLASSES, Record, read_classes
from bam.reports import paired_difference
from bam.reports.statistics import holm
from bam.training.comparison import read_comparison
from tests.data.boxed import instances, voc_object, voc_xml
from tests.data.test_questions import ANSWERS, QUESTIONS, vqa2  # noqa: F401  # a fixture

SETTINGS = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], print_blob=False
)


def extent(few):
    """Parametrize a test by the number of its examples: `few`, and fifty times as many in the slow tests."""
    return pytest.mark.parametrize("number", [few, pytest.param(50 * few, marks=pytest.mark.slow)])


def tried(number, check, **strategies):
    """Call `check` with `number` examples."""
    settings(SETTINGS, max_examples=number)(given(**strategies)(check))()


def holds(few, **strategies):
    """Make a property of examples a test, of the extent `few`."""

    def decorate(check):
        @extent(few)
        def test(number):
            tried(number, check, **strategies)

        return test

    return decorate


# Networks


class Block(nn.Module):
    """A convolution with or without normalisation, pooling and a skip connection."""

    def __init__(self, channels, out, kernel, stride, normalized, pool, skips):  # noqa: PLR0913
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(out) if normalized else nn.Identity()
        self.skip = nn.Conv2d(channels, out, 1, stride) if skips else None
        self.pool = {
            "none": nn.Identity(),
            "max": nn.MaxPool2d(2, ceil_mode=True),
            "average": nn.AvgPool2d(2, ceil_mode=True),
        }[pool]

    def forward(self, x):
        refined = torch.relu(self.norm(self.conv(x)))
        return self.pool(refined if self.skip is None else refined + self.skip(x))


@st.composite
def networks(draw):
    """A CNN of one to four blocks for images of 24 x 24 pixels, and some of the blocks' names."""
    torch.manual_seed(draw(st.integers(0, 99)))
    widths = [3, *draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))]
    blocks = []
    for channels, out in zip(widths, widths[1:], strict=False):
        kernel, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
        pool = draw(st.sampled_from(["none", "max", "average"])) if len(blocks) < 3 else "none"
        blocks.append(Block(channels, out, kernel, stride, draw(st.booleans()), pool, draw(st.booleans())))
    sites = draw(st.sets(st.sampled_from([f"0.{k}" for k in range(len(blocks))]), min_size=1))
    return nn.Sequential(nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten()), sorted(sites)


def outputs(model, images):
    return [copy.deepcopy(model).train(training)(images) for training in (False, True)]


@holds(10, case=networks(), name=st.sampled_from(["bam", "se", "cbam", "gc"]), identity=st.booleans())
def test_what_is_attached_comes_out_again(case, name, identity):
    model, sites = case
    images = torch.randn(2, 3, 24, 24)
    before, plain, types = copy.deepcopy(model.state_dict()), outputs(model, images), list(map(type, model.modules()))
    bam.attach(model, AttentionSpec(name, identity=identity), sites=sites, image=24)
    assert sorted(bam.attended(model)) == sites
    if identity:
        assert all(map(torch.equal, outputs(model, images), plain))
    bam.detach(model)
    assert list(map(type, model.modules())) == types and list(model.state_dict()) == list(before)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert all(map(torch.equal, outputs(model, images), plain))


# Text

WORDS = st.text(max_size=8) | st.text(string.printable, max_size=8) | st.sampled_from(["true", "8", "null", "a b", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=5,
)
NAMES = st.from_regex(r"[a-z_]{1,6}(:[a-z]{1,3})?", fullmatch=True)
OPTIONS = st.dictionaries(
    st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(lambda name: name not in ("sites", "identity")),
    VALUES,
    max_size=3,
)
SPECS = st.builds(
    AttentionSpec, NAMES, OPTIONS, st.none() | st.lists(WORDS, max_size=3).map(tuple), identity=st.booleans()
)


@holds(100, spec=SPECS)
def test_specifications_read_back(spec):
    assert AttentionSpec.parse(str(spec)) == spec
    assert AttentionSpec.parse(split_specs(f"none, {spec},bam")[1]) == spec


@holds(100, text=st.text(max_size=20) | st.text("bam(=,[]{}\"'\\ 1.)", max_size=20))
def test_any_text_is_a_specification_or_refused(text):
    for read in (AttentionSpec.parse, split_specs):
        try:
            read(text)
        except ValueError as error:
            assert str(error).startswith("attention")


SHARES = st.floats(0, 0.99)
FIELDS = {
    "name": WORDS,
    "data_options": st.dictionaries(WORDS, VALUES, max_size=2),
    "pretrained": st.none() | WORDS,
    "attention": SPECS,
    "seed": st.integers(0, 2**32 - 1),
    "epochs": st.integers(1, 2**32 - 1),
    "lr": st.floats(1e-300, 1e300),
    "milestones": st.lists(st.floats(0, 1), max_size=3),
    "ema": SHARES,
    "weight_decay": st.floats(0, 1e300) | st.integers(0, 10**300),
    "deterministic": st.booleans(),
}


RECIPES = st.tuples(
    st.sampled_from([ClassificationRecipe, DetectionRecipe]), st.fixed_dictionaries({}, optional=FIELDS)
)


@extent(40)
def test_recipes_read_back(number, tmp_path):
    def check(case):
        kind, fields = case
        try:
            recipe = kind(**fields)
        except ValueError:
            assume(False)
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        assert Recipe.from_yaml(path) == recipe

    tried(number, check, case=RECIPES)


# Statistics

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8)


def difference(pairs, **options):
    return paired_difference(*map(list, zip(*pairs, strict=True)), **options)


def close(left, right, size):
    """Whether two differences say the same up to the rounding of values of this size."""
    if (left.interval is None) != (right.interval is None):
        return False
    numbers = [(left.mean, right.mean), *zip(left.interval or (), right.interval or (), strict=True)]
    return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6 * (1 + size)) for a, b in numbers)


SHUFFLES = st.randoms(use_true_random=False)


@holds(100, pairs=PAIRS, chance=SHUFFLES, shift=st.integers(-1000, 1000), power=st.integers(-9, 9))
def test_a_difference_knows_no_order_shift_or_unit(pairs, chance, shift, power):
    plain, size = difference(pairs), max(abs(value) for pair in pairs for value in pair)
    shuffled = list(pairs)
    chance.shuffle(shuffled)
    assert close(difference(shuffled), plain, size)
    assert difference([(b, a) for a, b in pairs]).mean == -plain.mean
    scale = 2.0**power  # exact
    scaled = difference([(scale * a, scale * b) for a, b in pairs])
    assert scaled.mean == scale * plain.mean and scaled.verdict == plain.verdict
    shifted = difference([(a + shift, b + shift) for a, b in pairs])
    assert math.isclose(shifted.mean, plain.mean, abs_tol=1e-6 * (1 + size))
    upward = difference(pairs, higher_is_better=True).verdict
    assert upward == {"better": "worse", "worse": "better"}.get(plain.verdict, plain.verdict)


@holds(40, pairs=PAIRS, bad=st.sampled_from([math.nan, math.inf, -math.inf]), place=st.integers(0, 15))
def test_what_is_not_finite_is_refused(pairs, bad, place):
    values = [list(pair) for pair in pairs]
    values[place // 2 % len(values)][place % 2] = bad
    with pytest.raises(ValueError, match="values must be finite"):
        difference(values)


@holds(40, several=st.lists(PAIRS, max_size=5), chance=SHUFFLES)
def test_holm_knows_no_order_and_only_widens(several, chance):
    plain = [difference(pairs) for pairs in several]
    corrected = holm(plain)
    for before, after in zip(plain, corrected, strict=True):
        assert after.mean == before.mean and (after.interval is None) == (before.interval is None)
        if before.interval and after.interval:
            slack = 1e-9 * (1 + abs(before.interval[0]) + abs(before.interval[1]))
            assert after.interval[0] <= before.interval[0] + slack and after.interval[1] >= before.interval[1] - slack
            assert after.verdict in (before.verdict, f"no difference shown with n={len(after.differences)}")
    order = list(range(len(plain)))
    chance.shuffle(order)
    if len({one.p for one in plain}) == len(plain):  # equal p-values are taken in the order given
        assert holm([plain[k] for k in order]) == [corrected[k] for k in order]


# Files

ODD = st.one_of(VALUES, st.sampled_from([10**400, 2**63, -1, 1e308, math.nan, math.inf, "..", "\0", "a:b", "1" * 5000]))


@st.composite
def changed(draw, content):
    """`content` with one to three values replaced, left out or repeated."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
                break
            place = place[key]
        else:
            continue
        change = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if change == "remove":
            del place[key]
        elif change == "repeat" and isinstance(place, list):
            place.append(place[key])
        else:
            place[key] = draw(ODD)
    return content


@st.composite
def damaged(draw, content, head=0):
    """`content` with some bytes replaced, put in, left out, or cut off; two times of three in the first `head`."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([head, head, len(content)])) or len(content)
        start = draw(st.integers(0, min(end, len(content))))
        content[start : start + draw(st.sampled_from([0, 1, 1, 1, 8, 10**9]))] = draw(st.binary(max_size=3))
    return bytes(content)


RECIPE = ClassificationRecipe().as_dict()
RECORD = {
    "recipe": RECIPE, "cost": {"params": 1}, "sites": ["a"], "history": [{"epoch": 1.0}], "format": 1,
    "final": {"test_error": 0.5}, "measures": [{"key": "test_error", "label": "a", "meaning": "b"}],
    "stretches": [{"device": "cpu", "from_step": 0}], "normalization": {"mean": [0.5], "std": [0.5]},
}  # fmt: skip
PLAN = {
    "recipe": RECIPE, "attention": ["none"], "seeds": [0], "latency_ms": {"none": 1.0}, "probe": None,
    "pictures": [{"file": "a.png"}],
}  # fmt: skip
CONFIG = {
    "backbone": "resnet18", "num_classes": 2, "classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3,
    "sites": {"a": {"attention": "bam", "channels": 8, "options": {}}}, "image_size": [8, 8], "resize": 8,
    "bam_version": "0.1.0", "bam_format": 1,
}  # fmt: skip
#: File -> its content, and what reads it.
OWN_FILES = {
    "record.json": (RECORD, lambda path: Record.read(path.parent)),
    "comparison.json": (PLAN, lambda path: read_comparison(path.parent)),
    "config.json": (CONFIG, NetworkConfig.read),
    "recipe.yaml": (RECIPE, Recipe.from_yaml),
}


def reads_or_refuses(read):
    """Nothing but a ValueError or OSError with a message comes from `read`."""
    try:
        read()
    except (ValueError, OSError) as error:
        assert str(error)


def harmed(number, path, text, read, head=0):
    """`read` meets versions of a file: other bytes, most of them in the first `head`, and, of JSON, other values."""
    whole = text if isinstance(text, bytes) else text.encode()
    versions = damaged(whole, head)
    if path.suffix in (".json", ".yaml"):
        versions |= changed(json.loads(text)).map(json.dumps).map(str.encode)

    def check(content):
        path.write_bytes(content)
        reads_or_refuses(read)

    tried(number, check, content=versions)


@extent(30)
@pytest.mark.parametrize("name", OWN_FILES)
def test_own_files_are_read_or_refused(name, number, tmp_path):
    content, read = OWN_FILES[name]
    harmed(number, tmp_path / name, json.dumps(content), lambda: read(tmp_path / name))


@extent(30)
def test_classes_csv_is_read_or_refused(number, tmp_path):
    harmed(number, tmp_path / CLASSES, 'class,images,errors\n"a, b",7,2\nc,8,0\n', lambda: read_classes(tmp_path))


@extent(400)
def test_cifar_is_read_or_refused(number, tmp_path):
    def read():
        cifar100.cache_clear()
        cifar100(tmp_path)

    part = {"fine_labels": [7], "data": np.zeros((1, 3072), np.uint8)}
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class{k}" for k in range(100)]}))
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps(part))
    for protocol in (2, 4):
        harmed(number, tmp_path / "test", pickle.dumps(part, protocol), read, head=220)  # the pickle's instructions


@extent(40)
@pytest.mark.parametrize("drop", [False, True])
def test_coco_is_read_or_refused(drop, number, tmp_path):
    path = tmp_path / "instances.json"
    harmed(number, path, json.dumps(instances()), lambda: read_instances(path, None, drop))


@extent(40)
def test_voc_is_read_or_refused(number, tmp_path):
    path = tmp_path / "x.xml"
    xml = voc_xml(voc_object("cat", (1, 2, 30, 40)), voc_object("dog", (5, 5, 9, 9), difficult=1))
    harmed(number, path, xml, lambda: read_annotation(path, tmp_path / "x.jpg", CLASSES_OF_VOC, False))


@extent(20)
@pytest.mark.parametrize("name", [QUESTIONS, ANSWERS])
def test_vqa_is_read_or_refused(name, number, vqa2):  # noqa: F811
    path = vqa2 / "vqa2" / name
    harmed(number, path, path.read_text(), lambda: load_questions("vqa2", vqa2))
