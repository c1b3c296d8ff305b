"""How far "any CNN" reaches: every network of torchvision and timm is attended, tried and put into a table."""

from bam.coverage.checks import CHECKS, Row, check
from bam.coverage.page import write_page
from bam.coverage.survey import Candidate, candidates, survey

__all__ = ["CHECKS", "Candidate", "Row", "candidates", "check", "survey", "write_page"]
