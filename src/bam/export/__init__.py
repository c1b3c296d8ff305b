"""Export networks to other runtimes, save and load them, and load published BAM weights."""

from typing import TYPE_CHECKING, Any

from bam.export.config import IMAGENET, NetworkConfig, config_of
from bam.export.description import NetworkDescription
from bam.export.export import Exported, export_model
from bam.export.formats import FORMATS
from bam.export.latency import format_latency, measure_latency
from bam.export.parity import TOLERANCE, Check
from bam.export.pretrained import from_pretrained, save_pretrained
from bam.export.released import load_released
from bam.export.sizes import AXES
from bam.export.transform import preprocessing

if TYPE_CHECKING:
    from bam.export.hub import HubModel

__all__ = [
    "AXES", "FORMATS", "IMAGENET", "TOLERANCE", "Check", "Exported", "HubModel", "NetworkConfig",
    "NetworkDescription", "config_of", "export_model", "format_latency", "from_pretrained", "load_released",
    "measure_latency", "preprocessing", "save_pretrained",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import HubModel on first use, as it needs huggingface_hub."""
    if name == "HubModel":
        from bam.export.hub import HubModel

        return HubModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
