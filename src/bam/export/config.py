"""`config.json`: what a saved network is, and what it expects of its images. Nothing in it is executed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bam import __version__
from bam.attention import SiteSpec
from bam.attention.contract import runtime_options
from bam.pixels import IMAGENET_MEAN, IMAGENET_STD
from bam.surgery.insertion import attended_modules

FORMAT = 1
ATTRIBUTE = "bam_config"

#: How networks are trained on ImageNet, and evaluated: 224 x 224 from the middle of 256.
IMAGENET: dict[str, Any] = {
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "image_size": (224, 224),
    "resize": 256,
}


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is, beside its weights; a loaded network carries it as `bam_config`.

    Raises ValueError, naming the field, for one that is wrong.
    """

    backbone: str  #: its name for `bam.models.build`
    num_classes: int | None  #: outputs; None: the backbone's own
    classes: tuple[str, ...] | None  #: their names
    sites: dict[str, dict[str, Any]]  #: {"layer1": {"attention": "bam", "channels": 256, "options": {}}, ...}
    mean: tuple[float, ...]  #: of each channel of the image, on the scale 0 to 1
    std: tuple[float, ...]  #: the same
    image_size: tuple[int, int]  #: height and width in pixels
    resize: int  #: pixels of the shorter side, from whose middle they are cropped
    bam_version: str = __version__  #: that saved it
    bam_format: int = FORMAT

    def __post_init__(self) -> None:
        for field in ("classes", "mean", "std", "image_size"):
            if isinstance(getattr(self, field), list):
                object.__setattr__(self, field, tuple(getattr(self, field)))
        for field, (valid, expected) in _expectations(self).items():
            if not valid:
                raise ValueError(f"{field}: expected {expected}, got {_short(getattr(self, field))}")

    def to_json(self) -> str:
        """The content of config.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> "NetworkConfig":
        """Read config.json.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: naming file and field, if it is damaged, of another library or not valid.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}: bam.export.save_pretrained writes it last")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if not isinstance(content, dict) or "bam_format" not in content:
            keys = ", ".join(list(content)[:4]) if isinstance(content, dict) else f"a {type(content).__name__}"
            told = f"is of another library, not of bam.export.save_pretrained: it holds {keys or 'nothing'}"
            raise ValueError(f"{path} {told}")
        if content["bam_format"] != FORMAT:
            told = f"bam_format: this version of bam reads {FORMAT}, got {_short(content['bam_format'])}"
            raise ValueError(f"{path}: {told}; update bottleneck-attention")
        known = {field.name for field in dataclasses.fields(cls)}
        for title, names in (("missing", known - set(content)), ("unknown", set(content) - known)):
            if names:
                raise ValueError(f"{path}: {title} fields: {', '.join(sorted(names))}")
        try:
            return cls(**content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def carry(model: nn.Module, config: NetworkConfig) -> None:
    """Let `model` have `config` as its `bam_config`."""
    setattr(model, ATTRIBUTE, config)


def config_of(model: nn.Module) -> NetworkConfig | None:
    """The configuration that a loaded network carries."""
    config = getattr(model, ATTRIBUTE, None)
    return config if isinstance(config, NetworkConfig) else None


def sites_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Where `model` carries attention and how each module was built, as far as JSON can tell."""
    sites = {}
    for site, carrier in attended_modules(model).items():
        left_out = runtime_options(carrier.attention)
        spec = carrier.attention_spec.attention
        options = {name: value for name, value in spec.options.items() if name not in left_out}
        try:
            sites[site.label] = SiteSpec(dataclasses.replace(spec, options=options), site.channels).to_dict()
        except ValueError as error:
            raise ValueError(f"the attention at {site.label!r}: {error}") from None
    return sites


def _expectations(config: NetworkConfig) -> dict[str, tuple[bool, str]]:
    """Field -> (whether it is valid, what would be)."""
    count, names, size = config.num_classes, config.classes, config.image_size
    are_sides = isinstance(size, tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    mean, std = config.mean, config.std
    return {
        "backbone": (isinstance(config.backbone, str) and config.backbone != "", "the name of a network"),
        "num_classes": (count is None or (type(count) is int and count >= 0), "null, or how many outputs there are"),
        "classes": (
            names is None
            or (isinstance(names, tuple) and all(isinstance(name, str) for name in names) and len(names) == count),
            f"null, or num_classes = {count} names",
        ),
        "sites": (
            isinstance(config.sites, dict) and all(map(_is_site, config.sites.values())),
            '{site: {"attention": name or null, "channels": a positive number, "options": {name: value}}}',
        ),
        "mean": (_are_numbers(mean) and all(0 <= value <= 1 for value in mean), "a mean from 0 to 1 for each channel"),
        "std": (
            _are_numbers(std) and all(0 < value <= 1 for value in std) and _are_numbers(mean) and len(std) == len(mean),
            "a deviation above 0 and up to 1 for each of the channels that mean has",
        ),
        "image_size": (are_sides, "height and width in pixels"),
        "resize": (
            type(config.resize) is int and config.resize >= (min(size) if are_sides else 1),
            "pixels of the shorter side, not less than is cropped from it",
        ),
        "bam_version": (isinstance(config.bam_version, str), "a version"),
    }


def _is_site(content: Any) -> bool:
    try:
        SiteSpec.from_dict(content).to_dict()
    except ValueError:
        return False
    return True


def _are_numbers(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) > 0 and all(type(value) in (int, float) for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
