"""Where attention goes: a forward pass is traced, and the maps just before each down-sampling are the sites."""

from bam.placement.blocks import find_blocks
from bam.placement.bottlenecks import NoDownSampling, find_bottlenecks, find_last_map
from bam.placement.selection import BOTTLENECKS, select_sites
from bam.placement.sites import Site, Sites

__all__ = [
    "BOTTLENECKS", "NoDownSampling", "Site", "Sites",
    "find_blocks", "find_bottlenecks", "find_last_map", "select_sites",
]  # fmt: skip
