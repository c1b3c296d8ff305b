import pytest

from bam.attention import AttentionSpec
from bam.recipes import ClassificationRecipe, folder_name, variant

BASE = ClassificationRecipe(attention=AttentionSpec(options={"layout": "released"}))


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
    ("text", "reason"),
    [
        ("bam(", "write NAME or NAME"),
        ("none(reduction=8)", "without attention has no options"),
        ("none(identity=true)", "without attention has no options"),
        ("bam(identity=2)", "identity must be true or false"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        variant(BASE, text)


def test_folder_names_are_plain():
    names = ["bam", "bam(dilation=1)", "se(sites=every block)", "bam(sites=[layer1,layer2])"]
    expected = ["bam", "bam-dilation=1", "se-sites=every-block", "bam-sites=-layer1-layer2"]
    assert [folder_name(name) for name in names] == expected
