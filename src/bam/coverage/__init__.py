"""Attach attention to every network of torchvision and timm, check the results and tabulate them."""

from bam.coverage.checks import check
from bam.coverage.page import write_page
from bam.coverage.row import CHECKS, Row
from bam.coverage.survey import SHORT, Candidate, candidates, survey

__all__ = ["CHECKS", "SHORT", "Candidate", "Row", "candidates", "check", "survey", "write_page"]
