"""A recipe: everything that determines the result of a training run, as plain data."""

import contextlib
import dataclasses
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from bam.attention.spec import AttentionSpec

#: Declared type of a field -> types of values it accepts.
_TYPES: dict[Any, tuple[type, ...]] = {
    float: (float, int),
    int: (int,),
    bool: (bool,),
    str: (str,),
    str | None: (str, type(None)),
    dict[str, Any]: (dict,),
    list[float]: (list,),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run of any task; runs that differ only in `attention` or only in `seed` are comparable.

    Each task has a subclass with its own fields.

    Attributes:
        name: name of the original recipe.
        data: data set, see the task's own recipe class.
        data_options: passed to the data set's loader, e.g. {"canvas": 40}.
        model: network, see `bam models`.
        pretrained: weights to start from: a file, the folder of a run, or a torchvision or timm tag ("default").
        attention: the attention module with its options and sites; "none" for the plain network.
        seed: seed of initial weights, data order and augmentation.
        epochs: passes over the training images.
        batch_size: images per optimisation step, over all devices and accumulated parts together.
        accumulation: number of parts that a batch is split into, to save memory.
        lr: peak learning rate.
        schedule: "cosine" to zero, or "step" by `gamma` at `milestones`; updated at every step.
        milestones: points where "step" drops, as shares of the epochs.
        gamma: factor of each drop of "step".
        warmup_epochs: epochs of linear warm-up from zero.
        optimizer: "sgd", or "adamw" (decoupled weight decay; lr of about 0.0003).
        momentum: momentum of SGD.
        nesterov: use Nesterov momentum.
        weight_decay: weight decay.
        decay_weights_only: no weight decay for biases, normalisation layers and scalars.
        new_lr: factor on the learning rate for the new parts of a pretrained network: attention and classifier.
        layer_decay: factor on the learning rate from each layer to the one before it (timm's grouping); 1 for none.
        ema: decay of the moving average of the weights, which is then evaluated and saved; 0 for none. It is lower in
            the first steps: at most (1 + step) / (10 + step).
        clip_norm: maximum norm of the gradient; 0 for no limit.
        evaluate_every: epochs between evaluations on the test images; the last epoch is always evaluated.
        precision: "auto" is bf16 if a few timed steps are clearly faster with it, else fp32 (full float32, on GPUs
            too); "tf32" is fp32 with faster, less precise products on NVIDIA GPUs.
        kernel: implementation of BAM's gate, unless the attention's own options name one (see `bam.BAM`). "auto" is
            BAM_KERNEL of the environment; or else the fastest, measured if the run has at least 1,000 steps and BAM's
            modules take three minutes of it; or else torch.
        deterministic: bit-identical results on the same machine; a little slower on a GPU.

    Raises:
        ValueError: for an invalid value or combination.
    """

    #: Name of the task; empty in this base class.
    task: ClassVar[str] = ""
    #: Task -> recipe class, for all subclasses.
    TASKS: ClassVar[dict[str, type["Recipe"]]] = {}
    #: Fields besides the attention that a variant of a comparison may set.
    VARIANT_FIELDS: ClassVar[tuple[str, ...]] = ()
    #: Fields among them that `bam compare` crosses with the attention if they have several values.
    CROSSED: ClassVar[tuple[str, ...]] = ()
    #: Field -> its name in version 0.1.
    RENAMED: ClassVar[dict[str, str]] = {}
    #: Field -> minimum value.
    LEAST: ClassVar[dict[str, float]] = {
        "epochs": 1, "batch_size": 1, "accumulation": 1, "seed": 0, "clip_norm": 0, "evaluate_every": 1, "ema": 0,
        "warmup_epochs": 0, "gamma": 0, "momentum": 0,
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
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_weights_only: bool = False
    new_lr: float = 1.0
    layer_decay: float = 1.0
    ema: float = 0.0
    clip_norm: float = 0.0
    evaluate_every: int = 1
    precision: Literal["auto", "bf16", "fp16", "fp32", "tf32"] = "auto"
    kernel: Literal["auto", "torch", "inductor", "triton"] = "auto"
    deterministic: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Recipe.TASKS[cls.task] = cls

    def __post_init__(self) -> None:
        """Check values and combinations."""
        if isinstance(self.attention, str):
            object.__setattr__(self, "attention", AttentionSpec.parse(self.attention))
        if AttentionSpec.parse(str(self.attention)) != self.attention:
            raise ValueError(f"recipe: attention {self.attention} cannot be written as text: use plain option values")
        for name, kind in self.types().items():
            value = getattr(self, name)
            types = _TYPES.get(kind)
            if types and type(value) not in types:
                raise ValueError(f"recipe: {name} must be of type {types[0].__name__}, got {value!r}")
            if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
                raise ValueError(f"recipe: {name} must be one of {', '.join(typing.get_args(kind))}, got {value!r}")
            for number in (value if isinstance(value, list) else [value]) if kind in (float, list[float]) else ():
                if isinstance(number, float | int) and not abs(number) <= sys.float_info.max:
                    raise ValueError(f"recipe: {name} must be finite, got {value!r}")
            if (kind is int or name == "warmup_epochs") and value >= 2**32:
                raise ValueError(f"recipe: {name} must be below 2**32, got {value}")
        for name, least in self.LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"recipe: {name} must be at least {least}, got {getattr(self, name)}")
        if not all(type(share) in (int, float) and 0 <= share <= 1 for share in self.milestones):
            raise ValueError(f"recipe: milestones must be shares of the epochs, from 0 to 1, got {self.milestones}")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError("recipe: lr must be positive and weight_decay not negative")
        if self.new_lr <= 0 or not 0 < self.layer_decay <= 1 or self.ema >= 1:
            raise ValueError("recipe: new_lr must be positive, layer_decay above 0 and at most 1, ema below 1")
        if self.batch_size % self.accumulation:
            sizes = f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}"
            raise ValueError(f"recipe: {sizes}")

    @classmethod
    def types(cls) -> dict[str, Any]:
        """Field -> its type."""
        hints = typing.get_type_hints(cls)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Recipe":
        """The recipe that `as_dict` wrote, in the class of its task; missing fields get their defaults.

        Also reads files of version 0.1, which wrote the fields of all tasks, and attention as four fields.

        Raises:
            ValueError: for an unknown task or field, a field of another task, or an invalid value.
        """
        content = dict(content)
        task = content.pop("task", cls.task or "classification")
        if not isinstance(task, str) or task not in Recipe.TASKS:
            raise ValueError(f"recipe: task must be one of {', '.join(Recipe.TASKS)}, got {task!r}")
        kind = Recipe.TASKS[task]
        for name, annotation in [pair for other in Recipe.TASKS.values() for pair in other.types().items()]:
            if annotation is float and isinstance(content.get(name), str):
                with contextlib.suppress(ValueError):  # `replace` reports what is wrong
                    content[name] = float(content[name])  # YAML reads 5e-4 as a string
        foreign = _foreign_defaults(kind)
        changes = {name: value for name, value in content.items() if name not in foreign or value != foreign[name]}
        return kind().replace(**changes)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; `attention_options`, `sites` and `identity` change parts of the attention.

        Attention given as text overrides these parts. Parts the text leaves out come from this recipe: "bam" keeps its
        options.

        Raises:
            ValueError: for an unknown field, or an invalid value.
        """
        for name, old in self.RENAMED.items():
            if old in changes and name in changes:
                raise ValueError(f"recipe: {old} is the former name of {name}: give only one of them")
            if old in changes:
                changes[name] = changes.pop(old)
        if "task" in changes:
            raise ValueError(
                "recipe: the task cannot change, because it decides the fields: make a new recipe with Recipe.from_dict"
            )
        attention = changes.pop("attention", self.attention)
        if not isinstance(attention, str | AttentionSpec):
            raise ValueError(f"recipe: attention must be of type str, got {attention!r}")
        names = {"options": "attention_options", "sites": "sites", "identity": "identity"}
        parts = {part: changes.pop(name) for part, name in names.items() if name in changes}
        base = dataclasses.replace(self.attention if isinstance(attention, str) else attention, **parts)
        attention = AttentionSpec.parse(attention, over=base) if isinstance(attention, str) else base
        _refuse_foreign(type(self), changes)
        unknown = set(changes) - self.types().keys()
        if unknown:
            raise ValueError(f"a recipe has no field {', '.join(sorted(unknown))}; fields: {', '.join(self.as_dict())}")
        return dataclasses.replace(self, attention=attention, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Field -> value, ready for JSON and YAML."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"name": self.name, "task": self.task} | values | {"attention": str(self.attention)}

    @property
    def named_code(self) -> list[str]:
        """Names of the user's own code that the recipe needs, as `<module>:<name>`."""
        return [name for name in (self.model, self.attention.name) if ":" in name]

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Fields that differ, except `name`: field -> (this value, the other's)."""
        mine, theirs = self.as_dict(), other.as_dict()
        names = [name for name in mine | theirs if name != "name" and mine.get(name) != theirs.get(name)]
        return {name: (mine.get(name), theirs.get(name)) for name in names}

    def to_yaml(self) -> str:
        """The recipe as YAML, for `from_yaml`."""
        import yaml

        return yaml.safe_dump(self.as_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, path: Path) -> "Recipe":
        """Read a YAML file; missing fields get their defaults.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a recipe.
        """
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a recipe: expected 'field: value' lines")
        try:
            return cls.from_dict({"name": path.stem} | content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def _refuse_foreign(kind: type[Recipe], changes: dict[str, Any]) -> None:
    for name in changes.keys() & _foreign_defaults(kind).keys():
        raise ValueError(f"recipe: {name} {changes[name]!r} does not apply to the task {kind.task}")


def _foreign_defaults(kind: type[Recipe]) -> dict[str, Any]:
    """Defaults of the fields that only other tasks' recipes have, also under their old names."""
    names = kind.types().keys()
    defaults: dict[str, Any] = {}
    for other in Recipe.TASKS.values():
        values = {name: getattr(other(), name) for name in other.types().keys() - names}
        defaults |= values | {old: values[name] for name, old in other.RENAMED.items() if name in values}
    return defaults
