"""Where attention goes: trace a forward pass, and take the maps just before each down-sampling as sites."""

from bam.placement.blocks import find_blocks
from bam.placement.bottlenecks import NoDownSampling, find_bottlenecks, find_last_map
from bam.placement.selection import BOTTLENECKS, select_sites
from bam.placement.sites import NoSuchSites, Site, Sites

__all__ = [
    "BOTTLENECKS", "NoDownSampling", "NoSuchSites", "Site", "Sites",
    "find_blocks", "find_bottlenecks", "find_last_map", "select_sites",
]  # fmt: skip
