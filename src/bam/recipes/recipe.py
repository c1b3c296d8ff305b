"""A recipe: everything that decides what a training run computes, as plain data."""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from bam.attention.spec import AttentionSpec

#: What a field of a type may hold.
_TYPES: dict[Any, tuple[type, ...]] = {
    float: (float, int),
    int: (int,),
    bool: (bool,),
    str: (str,),
    str | None: (str, type(None)),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run of any task. Runs that differ in `attention` alone, or in `seed` alone, are comparable.

    Each task has a subclass with the fields of its own.

    Attributes:
        name: of the recipe it came from.
        data: data set, see the task's own recipe.
        data_options: passed to the data set's loader, e.g. {"canvas": 40}.
        model: network, see `bam models`.
        pretrained: weights to start from: a file, the folder of a run, or a tag of torchvision or timm ("default").
        attention: what attention, with which options, where; "none" for the network as it is.
        seed: of initial weights, data order and augmentation.
        epochs: passes over the training images.
        batch_size: images per optimisation step, over all devices and accumulated parts together.
        accumulation: parts in which a batch is computed, to save memory.
        lr: peak learning rate.
        schedule: "cosine" to zero, or "step" by `gamma` at `milestones`; once per step.
        milestones: where "step" drops, as shares of the epochs.
        gamma: factor of each drop of "step".
        warmup_epochs: linear warm-up from zero.
        momentum: of SGD.
        nesterov: Nesterov's form of the momentum.
        weight_decay: of SGD.
        decay_weights_only: spare biases, normalisation layers and scalars the weight decay.
        clip_norm: scale gradients down to this norm; 0 to leave them.
        evaluate_every: epochs between evaluations on the test images; the last epoch always ends with one.
        precision: "auto" is bf16 where the device has fast bf16 arithmetic, else fp32 (full float32, on GPUs too);
            "tf32" is fp32 with faster, less precise products on NVIDIA GPUs.
        deterministic: bit-equal results on the same machine; a little slower on a GPU.

    Raises:
        ValueError: for a value that cannot be meant.
    """

    #: Name of the task; empty here, where there is none.
    task: ClassVar[str] = ""
    #: Task -> its recipe class, of all subclasses there are.
    TASKS: ClassVar[dict[str, type["Recipe"]]] = {}
    #: Fields that a variant of a comparison may set, besides its attention.
    VARIANT_FIELDS: ClassVar[tuple[str, ...]] = ()
    #: Field -> the name it had in version 0.1.
    RENAMED: ClassVar[dict[str, str]] = {}
    #: Field -> its least value.
    LEAST: ClassVar[dict[str, float]] = {
        "epochs": 1, "batch_size": 1, "accumulation": 1, "seed": 0, "clip_norm": 0, "evaluate_every": 1,
    }  # fmt: skip

    name: str = "custom"
    data: str = "digits"
    data_options: dict[str, Any] = field(default_factory=dict)
    model: str = "cifar/resnet8"
    pretrained: str | None = None
    attention: AttentionSpec = field(default_factory=AttentionSpec)
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
    evaluate_every: int = 1
    precision: Literal["auto", "bf16", "fp16", "fp32", "tf32"] = "auto"
    deterministic: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Recipe.TASKS[cls.task] = cls

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if isinstance(self.attention, str):
            object.__setattr__(self, "attention", AttentionSpec.parse(self.attention))
        if AttentionSpec.parse(str(self.attention)) != self.attention:
            raise ValueError(f"recipe: attention {self.attention} cannot be written: give plain values as options")
        for name, kind in self.types().items():
            value = getattr(self, name)
            types = _TYPES.get(kind)
            if types and type(value) not in types:
                raise ValueError(f"recipe: {name} must be of type {types[0].__name__}, got {value!r}")
            if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
                raise ValueError(f"recipe: {name} must be one of {', '.join(typing.get_args(kind))}, got {value!r}")
        for name, least in self.LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"recipe: {name} must be at least {least}, got {getattr(self, name)}")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError("recipe: lr must be positive and weight_decay not negative")
        if self.batch_size % self.accumulation:
            raise ValueError(f"recipe: batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}")

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Field -> its type."""
        hints = typing.get_type_hints(cls)
        return {each.name: hints[each.name] for each in dataclasses.fields(cls)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recipe":
        """The recipe that `as_dict` wrote, of the class of its task; fields that are left out have their defaults.

        Version 0.1 wrote the fields of all tasks, and attention as four fields: both are read.

        Raises:
            ValueError: for an unknown task or field, a field of another task, or a value that cannot be meant.
        """
        content = dict(content)
        task = content.pop("task", cls.task or "classification")
        if task not in Recipe.TASKS:
            raise ValueError(f"recipe: task must be one of {', '.join(Recipe.TASKS)}, got {task!r}")
        kind = Recipe.TASKS[task]
        for name, old in kind.RENAMED.items():
            if old in content:
                content[name] = content.pop(old)
        foreign = _foreign_defaults(kind)
        for name in content.keys() & foreign.keys():
            if content[name] != foreign[name]:
                raise ValueError(f"recipe: {name} {content[name]!r} means nothing for the task {task}")
        return kind().replace(**{name: value for name, value in content.items() if name not in foreign})

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; `attention_options`, `sites` and `identity` change parts of the attention.

        Attention as text keeps what it leaves out: "bam" has the options that this recipe has.

        Raises:
            ValueError: for an unknown field, or a value that cannot be meant.
        """
        attention = changes.pop("attention", self.attention)
        if isinstance(attention, str):
            attention = AttentionSpec.parse(attention, over=self.attention)
        parts = {"options": "attention_options", "sites": "sites", "identity": "identity"}
        changed = {part: changes.pop(name) for part, name in parts.items() if name in changes}
        attention = dataclasses.replace(attention, **changed)
        unknown = set(changes) - self.types().keys()
        if unknown:
            raise ValueError(f"a recipe has no field {', '.join(sorted(unknown))}; it has {', '.join(self.as_dict())}")
        return dataclasses.replace(self, attention=attention, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Field -> value, ready for JSON and YAML."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {"name": self.name, "task": self.task} | values | {"attention": str(self.attention)}

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Field -> (own value, other's), where they differ; `name` apart, which changes nothing."""
        mine, theirs = self.as_dict(), other.as_dict()
        names = [name for name in mine | theirs if name != "name" and mine.get(name) != theirs.get(name)]
        return {name: (mine.get(name), theirs.get(name)) for name in names}

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
            for name, kind in Recipe.types().items():
                if kind is float and isinstance(content.get(name), str):
                    content[name] = float(content[name])  # YAML takes 5e-4 for a word
            return cls.from_dict({"name": path.stem} | content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def _foreign_defaults(kind: type[Recipe]) -> dict[str, Any]:
    """The fields that only the recipes of other tasks have, with their defaults; also under their old names."""
    own = kind.types().keys()
    defaults: dict[str, Any] = {}
    for other in Recipe.TASKS.values():
        values = {name: getattr(other(), name) for name in other.types().keys() - own}
        defaults |= values | {old: values[name] for name, old in other.RENAMED.items() if name in values}
    return defaults
