"""The recipe of classification: one class per image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from bam.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(Recipe):
    """One training run of a classifier. `data` is a name in `bam.data.DATA`, or folder:PATH, see `bam.data.folder`.

    Attributes:
        crop_padding: random crops after padding by so many pixels; 0 for none.
        flip: mirror training images at random.
        freeze_backbone: train the attention and the classifier alone.
        label_smoothing: share of the target spread over all classes.
        compile: run the network through torch.compile (minutes of compiling; pays in long runs).
        compile_mode: of torch.compile; "reduce-overhead" replays CUDA graphs, which small networks on a GPU need.
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
        """Refuse values that cannot be meant."""
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"recipe: label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.freeze_backbone and self.pretrained is None:
            raise ValueError("recipe: freeze_backbone would keep random weights: give pretrained, too")
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"recipe: compile_mode {self.compile_mode} without compile does nothing: set compile, too")
        if self.compile_mode != "default" and self.accumulation > 1:
            raise ValueError(
                f"recipe: with compile_mode {self.compile_mode} CUDA graphs reuse the memory of gradients, which "
                "then cannot be accumulated: choose accumulation 1, or compile_mode default"
            )
