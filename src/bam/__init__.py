"""Attention at the bottlenecks of any CNN: find the sites, attach it in one line, count its cost, detach it.

Everything here needs only torch; training, comparing and reporting are subpackages with their own extras.
"""

from bam.abort import restore
from bam.attention import (
    ATTENTION,
    BAM,
    CBAM,
    ECA,
    GC,
    SCSE,
    SE,
    AttentionMaps,
    AttentionModule,
    AttentionSpec,
    BAMChannel,
    BAMSpatial,
    Coordinate,
    SimAM,
)
from bam.costs import Cost, cost
from bam.placement import Site, Sites, find_blocks, find_bottlenecks, select_sites
from bam.surgery import (
    attach,
    attended,
    attention_groups,
    detach,
    extend_optimizer,
    freeze_backbone,
    fuse,
    load_attention,
    save_attention,
    without_attention,
)

restore()

__version__ = "0.2.0"
__all__ = [
    "ATTENTION", "BAM", "CBAM", "ECA", "GC", "SCSE", "SE", "AttentionMaps", "AttentionModule", "AttentionSpec",
    "BAMChannel", "BAMSpatial", "Coordinate", "Cost", "SimAM", "Site", "Sites", "attach", "attended",
    "attention_groups", "cost", "detach", "extend_optimizer", "find_blocks", "find_bottlenecks", "freeze_backbone",
    "fuse", "load_attention", "save_attention", "select_sites", "without_attention",
]  # fmt: skip
