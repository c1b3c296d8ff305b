"""The paper's tables: the printed numbers, and this package's counts for each row."""

from bam.paper.counts import Counts, count, rounds_to, unmet
from bam.paper.page import markdown, write_tables
from bam.paper.tables import NOTES, TABLES, Row

__all__ = ["NOTES", "TABLES", "Counts", "Row", "count", "markdown", "rounds_to", "unmet", "write_tables"]
