"""Recipes for classification: one class per image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bam.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(Recipe):
    """One training run of a classifier; `data` is a name in `bam.data.DATA`, or folder:PATH (see `bam.data.folder`).

    Attributes:
        data: data set: digits, cifar100, or folder:PATH for a folder with one folder per class.
        crop_padding: pixels of padding before random crops; 0 for no crops.
        flip: mirror training images at random.
        freeze_backbone: train only the attention and the classifier.
        label_smoothing: share of the target spread over all classes.
        compile: use torch.compile (takes minutes; pays off in long runs).
        compile_mode: mode of torch.compile; "reduce-overhead" uses CUDA graphs, which speeds up small networks on a
            GPU.

    Raises:
        ValueError: for an invalid value or combination.
    """

    task: ClassVar[str] = "classification"
    LEAST: ClassVar[dict[str, float]] = Recipe.LEAST | {"crop_padding": 0}

    crop_padding: int = 0
    flip: bool = False
    freeze_backbone: bool = False
    label_smoothing: float = 0.0
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"

    def __post_init__(self) -> None:
        """Check values and combinations."""
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"recipe: label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.freeze_backbone and self.pretrained is None:
            raise ValueError("recipe: freeze_backbone would freeze random weights: give pretrained too")
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"recipe: compile_mode {self.compile_mode} has no effect without compile: set compile too")
        if self.compile_mode != "default" and self.accumulation > 1:
            raise ValueError(
                f"recipe: compile_mode {self.compile_mode} uses CUDA graphs, which reuse the memory of gradients, so "
                "that gradients cannot be accumulated: choose accumulation 1, or compile_mode default"
            )
