"""Networks as files for other runtimes, checked against the network before they are kept."""

from bam.export.export import Exported, export_model
from bam.export.formats import FORMATS
from bam.export.latency import format_latency, measure_latency
from bam.export.parity import TOLERANCE, Check
from bam.export.sizes import AXES

__all__ = [
    "AXES", "FORMATS", "TOLERANCE", "Check", "Exported", "export_model", "format_latency",
    "measure_latency",
]  # fmt: skip
