"""Attention at the bottlenecks of any CNN: find the places, attach it in one line, count what it costs, detach it.

Everything here needs torch alone; training, comparing and reporting live in their own rooms and extras.
"""

from bam.attention import ATTENTION, BAM
from bam.costs import Cost, cost
from bam.placement import Site, Sites, find_bottlenecks
from bam.surgery import attach, attended, detach

__version__ = "0.1.0"
__all__ = ["ATTENTION", "BAM", "Cost", "Site", "Sites", "attach", "attended", "cost", "detach", "find_bottlenecks"]
