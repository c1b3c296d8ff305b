"""Recipes for visual question answering: a question about an image, and an answer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bam.attention.cross_modal import cross_modal_spec
from bam.attention.spec import AttentionSpec
from bam.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class VqaRecipe(Recipe):
    """One training run of a network that answers questions; `data` is a name in `bam.data.QUESTIONS`.

    Attributes:
        data: data set with questions: digits or vqa2.
        model: network for the images, see `bam models`; `attention` goes into it.
        cross_modal: how question and image are combined: question_guided, co_attention or dual, with options in
            brackets, e.g. 'question_guided(hops=3)'; without attention: none (all regions count equally) or question
            (no image). In a comparison, several of these, separated by commas, are crossed with the attention variants.
        text: how a question is read: by a recurrent network ("gru") or by self-attention ("transformer").
        width: features per word and region.
        dropout: share of the features dropped before the classifier.

    Raises:
        ValueError: for an invalid value or combination.
    """

    task: ClassVar[str] = "vqa"
    VARIANT_FIELDS: ClassVar[tuple[str, ...]] = ("cross_modal",)
    CROSSED: ClassVar[tuple[str, ...]] = ("cross_modal",)
    LEAST: ClassVar[dict[str, float]] = Recipe.LEAST | {"width": 1, "dropout": 0}

    cross_modal: str = "question_guided"
    text: Literal["gru", "transformer"] = "gru"
    width: int = 128
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check values and combinations."""
        super().__post_init__()
        cross_modal_spec(self.cross_modal)
        if self.dropout >= 1:
            raise ValueError(f"recipe: dropout must be in [0, 1), got {self.dropout}")
        if self.text == "transformer" and self.width % 4:
            raise ValueError(f"recipe: width must be a multiple of 4 for the transformer, got {self.width}")


def san() -> VqaRecipe:
    """VQA v2, train2014 to val2014: stacked attention on an ImageNet-pretrained ResNet-50 at 448 pixels.

    The papers measured on VQA v1's test-standard set: stacked attention 58.9 % (VGG-19), co-attention 62.1 % (ResNet),
    dual attention 64.2 % (ResNet-152). The questions of v2 are balanced, and so harder. About 0.8 GPU hours per run
    (estimated): 20 epochs of 82,783 images at 448 pixels; decoding them takes longer.

    bam compare --recipe vqa2/san --attention none,bam --cross-modal none,question_guided,co_attention --seeds 3
    """
    return VqaRecipe(
        data="vqa2",
        data_options={"size": 448},
        model="resnet50",
        pretrained="DEFAULT",
        attention=AttentionSpec(identity=True),
        width=512,
        dropout=0.5,
        epochs=20,
        batch_size=64,
        optimizer="adamw",
        lr=3e-4,
        warmup_epochs=0.5,
        weight_decay=0.01,
        decay_weights_only=True,
        clip_norm=1.0,
        deterministic=False,
    )
