import pytest

from bam.recipes import Recipe, folder_name, split_variants, variant

BASE = Recipe(attention_options={"layout": "released"})


def test_variants_are_split_outside_of_brackets():
    text = "none, bam,bam(reduction=8, dilation=1),se(sites=[layer1,layer2])"
    assert split_variants(text) == ["none", "bam", "bam(reduction=8, dilation=1)", "se(sites=[layer1,layer2])"]


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("none", {}),
        ("bam", {"attention": "bam"}),
        (
            "bam(reduction=8, combine=product,layout=paper)",
            {"attention": "bam", "attention_options": {"layout": "paper", "reduction": 8, "combine": "product"}},
        ),
        ("se(sites=every block)", {"attention": "se", "sites": ["every block"]}),
        ("se(sites=[layer1,before layer3],identity=true)",
         {"attention": "se", "sites": ["layer1", "before layer3"], "identity": True}),
        ("bam(sites=-1)", {"attention": "bam", "sites": ["-1"]}),
    ],
)  # fmt: skip
def test_a_variant_changes_the_recipe(text, changes):
    assert variant(BASE, text) == BASE.replace(**changes)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bam(", "write NAME or NAME"),
        ("bam(8)", "'8' is not OPTION=VALUE"),
        ("bam(reduction=)", "is not OPTION=VALUE"),
        ("none(reduction=8)", "without attention has no options"),
        ("bam(sites=[layer1)", "cannot be read"),
        ("bam(identity=2)", "identity must be of type bool"),
    ],
)
def test_what_cannot_be_read_is_told(text, told):
    with pytest.raises(ValueError, match=told):
        variant(BASE, text)
    with pytest.raises(ValueError, match="separated by commas"):
        split_variants("none,,bam")


def test_folder_names_are_plain():
    names = ["bam", "bam(dilation=1)", "se(sites=every block)", "bam(sites=[layer1,layer2])"]
    expected = ["bam", "bam-dilation=1", "se-sites=every-block", "bam-sites=-layer1-layer2"]
    assert [folder_name(name) for name in names] == expected
