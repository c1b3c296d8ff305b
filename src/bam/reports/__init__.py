"""Statistics, tables, plots and pages from the records of runs; never touches a model."""

from bam.reports.classes import summarize_classes
from bam.reports.evaluation import evaluation_lines, write_evaluation
from bam.reports.expectations import expectations
from bam.reports.gallery import write_gallery
from bam.reports.report import write_report
from bam.reports.statistics import Difference, paired_difference, wilson_interval
from bam.reports.summary import summarize

__all__ = [
    "Difference", "evaluation_lines", "expectations", "paired_difference", "summarize", "summarize_classes",
    "wilson_interval", "write_evaluation", "write_gallery", "write_report",
]  # fmt: skip
