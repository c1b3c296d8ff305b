"""The attention modules by name."""

from collections.abc import Callable

from torch import nn

from bam.attention.bam import BAM, BAMChannel, BAMSpatial
from bam.attention.cbam import CBAM
from bam.attention.coordinate import Coordinate
from bam.attention.deformable import Deformable
from bam.attention.dynamic_filter import DynamicFilter
from bam.attention.eca import ECA
from bam.attention.gc import GC
from bam.attention.residual_attention import ResidualAttention
from bam.attention.scse import SCSE
from bam.attention.se import SE
from bam.attention.simam import SimAM
from bam.attention.spatial_transformer import SpatialTransformer
from bam.objects import load_object

#: Name -> class. Every entry is built as `cls(channels, **options)`.
ATTENTION: dict[str, type[nn.Module]] = {
    "bam": BAM,
    "bam_channel": BAMChannel,
    "bam_spatial": BAMSpatial,
    "se": SE,
    "cbam": CBAM,
    "eca": ECA,
    "gc": GC,
    "simam": SimAM,
    "coordinate": Coordinate,
    "scse": SCSE,
    "deformable": Deformable,
    "spatial_transformer": SpatialTransformer,
    "dynamic_filter": DynamicFilter,
    "residual_attention": ResidualAttention,
}


def attention_factory(attention: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The callable `channels -> nn.Module` for a name in `ATTENTION`, or for "<module>:<class>" of your own.

    A callable is returned as it is.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(attention, nn.Module):
        raise ValueError(
            f"attention: expected a name or a callable channels -> nn.Module, got a {type(attention).__name__}"
        )
    if not isinstance(attention, str):
        if not callable(attention):
            raise ValueError(f"attention: expected a name or a callable channels -> nn.Module, got {attention!r}")
        return attention
    if ":" in attention:
        return load_object(attention, "<module>:<class>, e.g. my_modules:Gate")
    if attention not in ATTENTION:
        known = f"{', '.join(ATTENTION)}; or <module>:<class> for your own"
        raise ValueError(f"unknown attention {attention!r}; known: {known}")
    return ATTENTION[attention]


def attention_name(factory: Callable[..., nn.Module]) -> str:
    """The name under which `attention_factory` finds `factory`: in `ATTENTION`, or else "<module>:<class>"."""
    known = next((name for name, cls in ATTENTION.items() if cls is factory), None)
    if known is not None:
        return known
    named = factory if hasattr(factory, "__qualname__") else type(factory)  # a partial has no name, its type has
    return f"{named.__module__}:{named.__qualname__}"
