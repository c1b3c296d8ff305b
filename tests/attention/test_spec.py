import pytest
from torch import nn

import bam
from bam.attention import AttentionSpec, SiteSpec, split_specs

SPECS = [
    AttentionSpec(),
    AttentionSpec("bam"),
    AttentionSpec("bam", {"reduction": 8, "combine": "product"}, ("layer2",), identity=True),
    AttentionSpec("se", sites=("every block",)),
    AttentionSpec("se", sites=("layer1", "before layer3", "-1", "layer?.[0-2]")),
    AttentionSpec("my_modules:Gate", {"slope": -1.5e-7, "names": ["a b", "c,d", ""], "more": {"x": [1, None]}}),
    AttentionSpec(
        "bam", {"kernel": None, "text": "true", "number": "8", "quote": 'a "b" \\ (c', "deep": [[1], [True]]}
    ),
    AttentionSpec("none", identity=True),
    AttentionSpec(
        "bam", {"spaces": "a  b\u00a0c", "umlaut": "Fl\u00e4che", "apostrophe": "don't", "numbers": [".5", "0x8"]}
    ),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_is_printed_reads_back(spec):
    assert AttentionSpec.parse(str(spec)) == spec
    assert AttentionSpec.parse(split_specs(f"none, {spec},bam")[1]) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("bam", AttentionSpec("bam")),
        (" bam (reduction = 8 , combine=product)", AttentionSpec("bam", {"reduction": 8, "combine": "product"})),
        ("se(sites=every block)", AttentionSpec("se", sites=("every block",))),
        ("se(sites=[layer1, before x], identity=True)", AttentionSpec("se", {}, ("layer1", "before x"), identity=True)),
        ("bam(sites=-1)", AttentionSpec("bam", sites=("-1",))),
        ("bam(sites=null,kernel=null)", AttentionSpec("bam", {"kernel": None})),
        ("bam(branch='channel', sites=['layer1',  'a  b'])",
         AttentionSpec("bam", {"branch": "channel"}, ("layer1", "a  b"))),
        ("bam(a=0x8, b=.5, c=1_000, d=~, e=+1, f=-0x1F)",
         AttentionSpec("bam", {"a": 8, "b": 0.5, "c": 1000, "d": None, "e": 1, "f": -31})),
        ("bam(a=1e-3, b=no, c=[x, 2, [y]], d=layer[12].?)",
         AttentionSpec("bam", {"a": 0.001, "b": False, "c": ["x", 2, ["y"]], "d": "layer[12].?"})),
    ],
)  # fmt: skip
def test_what_people_write(text, spec):
    assert AttentionSpec.parse(text) == spec


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write NAME or NAME"),
        ("bam(", "write NAME or NAME"),
        ("two words", "write NAME or NAME"),
        ("bam(8)", "'8' is not OPTION=VALUE"),
        ("bam(reduction=)", "is not OPTION=VALUE"),
        ("bam(a-b=1)", "is not OPTION=VALUE"),
        ("bam(sites=[layer1)", "do not match"),
        ('bam(x="layer1)', "do not match"),
        ("bam(x={1})", "cannot be read"),
        ("bam(identity=2)", "identity must be true or false, got 2"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(text, reason):
    with pytest.raises(ValueError, match=f"^attention.*{reason}"):
        AttentionSpec.parse(text)


def test_options_that_are_left_out_come_from_the_base():
    base = AttentionSpec("none", {"layout": "released"}, ("layer1",), identity=True)
    assert AttentionSpec.parse("bam", base) == AttentionSpec("bam", {"layout": "released"}, ("layer1",), True)
    changed = AttentionSpec.parse("bam(layout=paper, sites=null, identity=false)", base)
    assert changed == AttentionSpec("bam", {"layout": "paper"})


@pytest.mark.parametrize(
    "fields",
    [{"name": 'b"m'}, {"name": "b]m"}, {"options": {"a-b": 1}}, {"options": []}, {"sites": 2.5}, {"sites": {"x": 1}},
     {"sites": [True]}, {"identity": 1}],
)  # fmt: skip
def test_fields_that_cannot_be_meant_are_refused(fields):
    with pytest.raises(ValueError, match="^attention"):
        AttentionSpec(**{"name": "bam"} | fields)


def test_sites_say_what_selects_them():
    assert AttentionSpec("bam", sites=[bam.Site("layer1", 8, 4, 4), -1]).sites == ("layer1", "-1")


def test_building():
    spec = AttentionSpec("bam", {"reduction": 4}, identity=True)
    module = spec.build(8)
    assert isinstance(module, bam.BAM) and module.reduction == 4 and module.scale is not None
    assert isinstance(AttentionSpec("torch.nn:BatchNorm2d", {"eps": 0.1}).build(8), nn.BatchNorm2d)
    with pytest.raises(ValueError, match=r"unknown attention 'bim'; known: bam, .*, se, .*; or <module>:<class>"):
        AttentionSpec("bim").build(8)
    with pytest.raises(ValueError, match="unexpected keyword argument 'speed'"):
        AttentionSpec("bam", {"speed": 3}).build(8)
    for name in ("torch.nn:Nothing", "no_such_module:Gate", ":Gate"):
        with pytest.raises(ValueError, match=r"give <module>:<class>"):
            AttentionSpec(name).build(8)


def test_files_of_the_first_versions_have_null_for_a_module_of_the_users_own():
    spec = SiteSpec.from_dict({"attention": None, "channels": 8, "options": {"identity": True}})
    assert spec.is_own and spec.attention.identity
    known = SiteSpec(AttentionSpec("bam", {"reduction": 8}, identity=True), 16)
    assert known.to_dict() == {"attention": "bam", "channels": 16, "options": {"reduction": 8, "identity": True}}
    assert SiteSpec.from_dict(known.to_dict()) == known and not known.is_own
    with pytest.raises(ValueError, match="cannot be written"):
        SiteSpec(AttentionSpec("bam", {"device": nn.Identity()}), 16).to_dict()
