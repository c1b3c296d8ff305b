"""Reports: statistics, tables, plots and pages from records. Reads records, never models."""

from typing import TYPE_CHECKING, Any

from bam.reports.classes import summarize_classes
from bam.reports.evaluation import evaluation_lines, write_evaluation
from bam.reports.expectations import expectations
from bam.reports.statistics import Difference, paired_difference, wilson_interval
from bam.reports.summary import summarize

if TYPE_CHECKING:
    from bam.reports.report import write_report

__all__ = [
    "Difference", "evaluation_lines", "expectations", "paired_difference", "summarize", "summarize_classes",
    "wilson_interval", "write_evaluation", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import write_report, which needs matplotlib and jinja2, at its first use."""
    if name == "write_report":
        from bam.reports.report import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
