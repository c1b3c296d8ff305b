"""Reports: statistics, tables, plots and pages from records. Reads records, never models."""

from bam.reports.classes import summarize_classes
from bam.reports.expectations import expectations
from bam.reports.report import write_report
from bam.reports.statistics import Difference, paired_difference
from bam.reports.summary import summarize

__all__ = ["Difference", "expectations", "paired_difference", "summarize", "summarize_classes", "write_report"]
