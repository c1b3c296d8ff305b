"""The recipe of object detection: boxes and their classes."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from bam.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Recipe):
    """One training run of a detector. `data` is a name in `bam.data.BOXES`.

    Attributes:
        model_options: passed to the detector's constructor, e.g. {"min_size": [640, 800], "max_size": 1333}.
        backbone: weights for the backbone: a file or the folder of a run of classification, which may hold this
            attention already, or a tag of torchvision; null beside `pretrained`.
        batchnorm: BatchNorms of the backbone: "batch" statistics; "frozen" as they are, also in weight and bias, while
            those of attention only scale and shift; "sync" over all GPUs. Small batches want "frozen".
    """

    task: ClassVar[str] = "detection"
    VARIANT_FIELDS: ClassVar[tuple[str, ...]] = ("backbone",)
    RENAMED: ClassVar[dict[str, str]] = {"batchnorm": "normalization"}

    model_options: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    batchnorm: Literal["batch", "frozen", "sync"] = "batch"

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        super().__post_init__()
        if self.backbone is not None and self.pretrained is not None:
            raise ValueError("recipe: pretrained is for the whole detector: with it give --backbone null")
