"""`config.json`: the structure of a saved network and the images it expects. Nothing in it is executed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bam import __version__
from bam.attention import SiteSpec
from bam.attention.contract import runtime_options
from bam.files import strict_json
from bam.pixels import IMAGENET_MEAN, IMAGENET_STD
from bam.surgery.insertion import attended_modules

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # as huggingface_hub's PyTorchModelHubMixin names them
FORMAT = 1
ATTRIBUTE = "bam_config"

#: Usual ImageNet preprocessing: the central 224 x 224 pixels after resizing the shorter side to 256.
IMAGENET: dict[str, Any] = {
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "image_size": (224, 224),
    "resize": 256,
}


@dataclass(frozen=True)
class NetworkConfig:
    """The description of a network without its weights; a loaded network has it as `bam_config`.

    Raises:
        ValueError: naming the field, if a field is invalid.
    """

    backbone: str  #: name of the backbone for `bam.models.build`
    num_classes: int | None  #: number of outputs; None for the backbone's own
    classes: tuple[str, ...] | None  #: class names
    sites: dict[str, SiteSpec]  #: label of a site -> its attention
    mean: tuple[float, ...]  #: mean of each image channel, on the scale 0 to 1
    std: tuple[float, ...]  #: standard deviation of each image channel, on the scale 0 to 1
    image_size: tuple[int, int]  #: height and width in pixels
    resize: int  #: the shorter side in pixels before the centre is cropped
    bam_version: str = __version__  #: version of the package that saved it
    bam_format: int = FORMAT

    def __post_init__(self) -> None:
        for field in ("classes", "mean", "std", "image_size"):
            if isinstance(getattr(self, field), list):
                object.__setattr__(self, field, tuple(getattr(self, field)))
        for field, (valid, expected) in _expectations(self).items():
            if not valid:
                raise _invalid(field, expected, getattr(self, field))

    def to_json(self) -> str:
        """The content of config.json."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content["sites"] = {label: site.to_dict() for label, site in self.sites.items()}
        return strict_json(content, indent=2)

    @classmethod
    def from_json(cls, text: str, source: Path | str) -> "NetworkConfig":
        """Parse the output of `to_json`; error messages call its origin `source`.

        Raises:
            ValueError: naming source and field, if the text is damaged, written by another program or invalid.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source} is damaged: {error}") from None
        if not isinstance(content, dict) or "bam_format" not in content:
            keys = ", ".join(list(content)[:4]) if isinstance(content, dict) else f"a {type(content).__name__}"
            raise ValueError(f"{source} was not written by bam.export.save_pretrained: it holds {keys or 'nothing'}")
        if content["bam_format"] != FORMAT:
            problem = f"bam_format: this version of bam reads format {FORMAT}, got {_short(content['bam_format'])}"
            raise ValueError(f"{source}: {problem}; update bottleneck-attention")
        known = {field.name for field in dataclasses.fields(cls)}
        for title, names in (("missing", known - set(content)), ("unknown", set(content) - known)):
            if names:
                raise ValueError(f"{source}: {title} fields: {', '.join(sorted(names))}")
        try:
            return cls(**content | {"sites": _read_sites(content["sites"])})
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    @classmethod
    def read(cls, path: Path) -> "NetworkConfig":
        """Read config.json.

        Raises:
            FileNotFoundError: if it does not exist.
            ValueError: naming file and field, if it is damaged, written by another program or invalid.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}; bam.export.save_pretrained writes it last")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        return cls.from_json(text, path)


def set_config(model: nn.Module, config: NetworkConfig) -> None:
    """Set `config` as the model's `bam_config`."""
    setattr(model, ATTRIBUTE, config)


def config_of(model: nn.Module) -> NetworkConfig | None:
    """The configuration of a loaded network; None for any other network."""
    config = getattr(model, ATTRIBUTE, None)
    return config if isinstance(config, NetworkConfig) else None


def sites_of(model: nn.Module) -> dict[str, SiteSpec]:
    """Site label -> attention of `model`, as read back from JSON, without runtime options such as the device.

    Raises:
        ValueError: if an option cannot be written as JSON.
    """
    sites = {}
    for site, carrier in attended_modules(model).items():
        omitted = runtime_options(carrier.attention)
        spec = carrier.attention_spec.attention
        options = {name: value for name, value in spec.options.items() if name not in omitted}
        try:
            content = SiteSpec(dataclasses.replace(spec, options=options), site.channels).to_dict()
        except ValueError as error:
            raise ValueError(f"the attention at {site.label!r}: {error}") from None
        sites[site.label] = SiteSpec.from_dict(content)
    return sites


def _read_sites(content: Any) -> dict[str, SiteSpec]:
    """Parse the field `sites` of config.json."""
    try:
        if not isinstance(content, dict):
            raise ValueError
        sites = {label: SiteSpec.from_dict(entry) for label, entry in content.items()}
        for site in sites.values():
            site.to_dict()  # rejects NaN, which Python's JSON parser accepts
    except ValueError:
        expected = '{site: {"attention": name or null, "channels": a positive number, "options": {name: value}}}'
        raise _invalid("sites", expected, content) from None
    return sites


def _expectations(config: NetworkConfig) -> dict[str, tuple[bool, str]]:
    """Field -> (whether its value is valid, the description of a valid value)."""
    count, names, size = config.num_classes, config.classes, config.image_size
    are_sides = isinstance(size, tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    mean, std = config.mean, config.std
    return {
        "backbone": (isinstance(config.backbone, str) and config.backbone != "", "the name of a network"),
        "num_classes": (count is None or (type(count) is int and count >= 0), "null, or the number of outputs"),
        "classes": (
            names is None
            or (isinstance(names, tuple) and all(isinstance(name, str) for name in names) and len(names) == count),
            f"null, or num_classes = {count} names",
        ),
        "sites": (
            isinstance(config.sites, dict) and all(isinstance(site, SiteSpec) for site in config.sites.values()),
            "a bam.attention.SiteSpec for each site",
        ),
        "mean": (_are_numbers(mean) and all(0 <= value <= 1 for value in mean), "a mean from 0 to 1 for each channel"),
        "std": (
            _are_numbers(std) and all(0 < value <= 1 for value in std) and _are_numbers(mean) and len(std) == len(mean),
            "a deviation above 0 and up to 1 for each channel in mean",
        ),
        "image_size": (are_sides, "height and width in pixels"),
        "resize": (
            type(config.resize) is int and config.resize >= (min(size) if are_sides else 1),
            "the shorter side in pixels, at least as large as the crop",
        ),
        "bam_version": (isinstance(config.bam_version, str), "a version"),
    }


def _are_numbers(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) > 0 and all(type(value) in (int, float) for value in values)


def _invalid(field: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{field}: expected {expected}, got {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
