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
        trivial_augment: apply a random operation of random strength to each training image (TrivialAugment).
        random_erasing: probability of erasing a random rectangle of a training image.
        mixup: alpha of mixup, which blends pairs of training images (arXiv 1710.09412); 0 for none.
        cutmix: alpha of CutMix, which pastes a rectangle of another training image (arXiv 1905.04899); 0 for none. With
            both, one of the two is drawn for each batch.
        drop_path: probability of skipping the last block in training, for networks with stochastic depth; it falls to
            zero towards the first block; 0 for none.
        new_classifier: initial weights of a classifier that the pretrained weights lack: the library's random ones
            ("library"), "zero", or a linear "probe" of the frozen features (arXiv 2202.10054). With more than 20,000
            training images, or for a convolution, "probe" means "zero".
        frozen_statistics: BatchNorms of a pretrained network keep its running statistics.
        freeze_backbone: train only the attention and the classifier.
        validation: share of the training images held out to choose the best epoch, whose weights are saved; 0 saves
            those of the last epoch. Test images never choose.
        batchnorm: statistics of BatchNorms in training: "batch" computes them in each process; "sync" over all GPUs, so
            that several GPUs give the results of one, up to rounding.
        label_smoothing: share of the target spread over all classes.
        compile: use torch.compile (takes minutes; pays off in long runs).
        compile_mode: mode of torch.compile; "reduce-overhead" uses CUDA graphs, which speeds up small networks on a
            GPU.

    Raises:
        ValueError: for an invalid value or combination.
    """

    task: ClassVar[str] = "classification"
    RENAMED: ClassVar[dict[str, str]] = {"batchnorm": "normalization"}
    LEAST: ClassVar[dict[str, float]] = Recipe.LEAST | {"crop_padding": 0, "mixup": 0, "cutmix": 0}

    crop_padding: int = 0
    flip: bool = False
    trivial_augment: bool = False
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    new_classifier: Literal["library", "zero", "probe"] = "library"
    frozen_statistics: bool = False
    freeze_backbone: bool = False
    validation: float = 0.0
    batchnorm: Literal["batch", "sync"] = "batch"
    label_smoothing: float = 0.0
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"

    def __post_init__(self) -> None:
        """Check values and combinations."""
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"recipe: label_smoothing must be in [0, 1), got {self.label_smoothing}")
        for name in ("random_erasing", "drop_path", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be in [0, 1), got {getattr(self, name)}")
        for name, off in (("freeze_backbone", False), ("frozen_statistics", False), ("new_classifier", "library")):
            if getattr(self, name) != off and self.pretrained is None:
                raise ValueError(f"recipe: {name} is for pretrained networks: give pretrained too")
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"recipe: compile_mode {self.compile_mode} has no effect without compile: set compile too")
        if self.compile_mode != "default" and self.accumulation > 1:
            raise ValueError(
                f"recipe: compile_mode {self.compile_mode} uses CUDA graphs, which reuse the memory of gradients: "
                "gradients cannot be accumulated; choose accumulation 1, or compile_mode default"
            )
