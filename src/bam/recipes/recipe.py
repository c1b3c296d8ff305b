"""A recipe: everything that decides what a training run computes, as plain data."""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

#: What a field of a type may hold.
_TYPES: dict[Any, tuple[type, ...]] = {
    float: (float, int),
    int: (int,),
    bool: (bool,),
    str: (str,),
    str | None: (str, type(None)),
}
#: The least values of fields.
_LEAST = {
    "epochs": 1, "batch_size": 1, "accumulation": 1, "crop_padding": 0, "seed": 0, "clip_norm": 0, "evaluate_every": 1,
}  # fmt: skip
_OF_CLASSIFICATION = ("crop_padding", "flip", "freeze_backbone", "label_smoothing", "compile")
_OF_DETECTION = ("model_options", "backbone", "normalization")


@dataclass(frozen=True)
class Recipe:
    """One training run. Runs that differ in `attention` alone, or in `seed` alone, are comparable.

    Attributes:
        name: of the recipe it came from.
        task: "classification", one class an image, or "detection", boxes and their classes.
        data: data set, a name in `bam.data.DATA`, or folder:PATH for a folder of images, see `bam.data.folder`; for
            detection a name in `bam.data.BOXES`.
        data_options: passed to the data set's loader, e.g. {"canvas": 40}, or {"size": 160} for a folder.
        crop_padding: random crops after padding by so many pixels; 0 for none.
        flip: mirror training images at random.
        model: network, see `bam models`.
        model_options: of a detector, passed to its constructor, e.g. {"min_size": [640, 800], "max_size": 1333}.
        pretrained: weights to start from: a file, the folder of a run, or a tag of torchvision or timm ("default").
        backbone: weights for a detector's backbone: a file or the folder of a run of classification, which may hold
            this attention already, or a tag of torchvision; null beside `pretrained`.
        normalization: BatchNorms of a detector's backbone: "batch" statistics; "frozen" as they are, also in weight and
            bias, while those of attention only scale and shift; "sync" over all GPUs. Small batches want "frozen".
        freeze_backbone: train the attention and the classifier alone.
        attention: a name in `bam.ATTENTION`, or "none" for the network as it is.
        attention_options: passed to the attention module, e.g. {"reduction": 8}.
        sites: where attention goes, see `bam sites`: names, patterns, positions (--sites=-1), "every block"; default:
            the bottlenecks.
        identity: insert attention so that the network starts with its own output exactly.
        seed: of initial weights, data order and augmentation.
        epochs: passes over the training images.
        batch_size: images an optimisation step, over all devices and accumulated parts together.
        accumulation: parts in which a batch is computed, to save memory.
        lr: peak learning rate.
        schedule: "cosine" to zero, or "step" by `gamma` at `milestones`; once a step.
        milestones: where "step" drops, as shares of the epochs.
        gamma: factor of each drop of "step".
        warmup_epochs: linear warm-up from zero.
        momentum: of SGD.
        nesterov: Nesterov's form of the momentum.
        weight_decay: of SGD.
        decay_weights_only: spare biases, normalisation layers and scalars the weight decay.
        clip_norm: scale gradients down to this norm; 0 to leave them.
        label_smoothing: share of the target spread over all classes.
        evaluate_every: epochs between evaluations on the test images; the last epoch always ends with one.
        precision: "auto" is bf16 where the device has fast bf16 arithmetic, else fp32 (full float32, on GPUs too);
            "tf32" is fp32 with faster, less precise products on NVIDIA GPUs.
        compile: run the network through torch.compile (minutes of compiling; pays in long runs).
        compile_mode: of torch.compile; "reduce-overhead" replays CUDA graphs, which small networks on a GPU need.
        deterministic: bit-equal results on the same machine; a little slower on a GPU.
    """

    name: str = "custom"
    task: Literal["classification", "detection"] = "classification"
    data: str = "digits"
    data_options: dict[str, Any] = field(default_factory=dict)
    crop_padding: int = 0
    flip: bool = False
    model: str = "cifar/resnet8"
    model_options: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    backbone: str | None = None
    normalization: Literal["batch", "frozen", "sync"] = "batch"
    freeze_backbone: bool = False
    attention: str = "none"
    attention_options: dict[str, Any] = field(default_factory=dict)
    sites: list[str] | None = None
    identity: bool = False
    seed: int = 0
    epochs: int = 10
    batch_size: int = 128
    accumulation: int = 1
    lr: float = 0.1
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_weights_only: bool = False
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    evaluate_every: int = 1
    precision: Literal["auto", "bf16", "fp16", "fp32", "tf32"] = "auto"
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    deterministic: bool = True

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name, kind in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            types = _TYPES.get(kind)
            if types and type(value) not in types:
                raise ValueError(f"recipe: {name} must be of type {types[0].__name__}, got {value!r}")
            if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
                raise ValueError(f"recipe: {name} must be one of {', '.join(typing.get_args(kind))}, got {value!r}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"recipe: {name} must be at least {least}, got {getattr(self, name)}")
        self._check_task()
        if self.lr <= 0 or self.weight_decay < 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError("recipe: lr must be positive, weight_decay not negative and label_smoothing in [0, 1)")
        if self.freeze_backbone and self.pretrained is None:
            raise ValueError("recipe: freeze_backbone would keep random weights: give pretrained, too")
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"recipe: compile_mode {self.compile_mode} without compile does nothing: set compile, too")
        if self.compile_mode != "default" and self.accumulation > 1:
            raise ValueError(
                f"recipe: with compile_mode {self.compile_mode} CUDA graphs reuse the memory of gradients, which "
                "then cannot be accumulated: choose accumulation 1, or compile_mode default"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(f"recipe: batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}")

    def _check_task(self) -> None:
        """Refuse fields of the other task, which would be passed over in silence."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {"model_options": {}}
        foreign = _OF_CLASSIFICATION if self.task == "detection" else _OF_DETECTION
        for name in foreign:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"recipe: {name} {getattr(self, name)!r} means nothing for the task {self.task}")
        if self.backbone is not None and self.pretrained is not None:
            raise ValueError("recipe: pretrained is for the whole detector: with it give --backbone null")

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some fields changed."""
        unknown = set(changes) - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise ValueError(f"a recipe has no field {', '.join(sorted(unknown))}; it has {', '.join(self.as_dict())}")
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Field -> value, ready for JSON and YAML."""
        return dataclasses.asdict(self)

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Field -> (own value, other's), where they differ; `name` apart, which changes nothing."""
        mine, theirs = self.as_dict(), other.as_dict()
        return {key: (mine[key], theirs[key]) for key in mine if key != "name" and mine[key] != theirs[key]}

    def to_yaml(self) -> str:
        """The recipe as YAML, which `from_yaml` reads back."""
        import yaml

        return yaml.safe_dump(self.as_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, path: Path) -> "Recipe":
        """Read a YAML file; fields that it leaves out have their defaults.

        Raises:
            FileNotFoundError, ValueError: if there is no such file, or it is no recipe.
        """
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a recipe: expected 'field: value' lines")
        try:
            for key, kind in typing.get_type_hints(cls).items():
                if kind is float and isinstance(content.get(key), str):
                    content[key] = float(content[key])  # YAML takes 5e-4 for a word
            return cls(name=path.stem).replace(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
