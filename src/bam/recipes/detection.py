"""Recipes for object detection: boxes and their classes."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bam.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Recipe):
    """One training run of a detector; `data` is a name in `bam.data.BOXES`.

    Attributes:
        data: data set with boxes: digits, voc2007, voc0712 or coco.
        model_options: passed to the detector's constructor, e.g. {"min_size": [640, 800], "max_size": 1333}.
        backbone: weights for the backbone: a torchvision tag, a file, or the folder of a classification run, which may
            include this attention; must be null if `pretrained` is set.
        batchnorm: BatchNorms of the backbone: "batch" uses batch statistics; "frozen" keeps statistics, weight and bias
            (BatchNorms of the attention keep their statistics); "sync" uses statistics over all GPUs. Choose "frozen"
            for small batches.

    Raises:
        ValueError: for an invalid value or combination.
    """

    task: ClassVar[str] = "detection"
    VARIANT_FIELDS: ClassVar[tuple[str, ...]] = ("backbone",)
    RENAMED: ClassVar[dict[str, str]] = {"batchnorm": "normalization"}

    model_options: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    batchnorm: Literal["batch", "frozen", "sync"] = "batch"

    def __post_init__(self) -> None:
        """Check values and combinations."""
        super().__post_init__()
        if self.backbone is not None and self.pretrained is not None:
            raise ValueError("recipe: pretrained already covers the backbone: add --backbone null")
