"""Attention modules: the contract that all keep, one file per paper, their table, and what carries them."""

from bam.attention.attended import Attended
from bam.attention.bam import BAM
from bam.attention.contract import AttentionMaps, AttentionModule
from bam.attention.deformable import Deformable
from bam.attention.dynamic_filter import DynamicFilter
from bam.attention.se import SE
from bam.attention.spatial_transformer import SpatialTransformer
from bam.attention.spec import AttentionSpec, SiteSpec, split_specs
from bam.attention.table import ATTENTION, attention_factory, attention_name

__all__ = [
    "ATTENTION", "BAM", "SE", "Attended", "AttentionMaps", "AttentionModule", "AttentionSpec", "Deformable",
    "DynamicFilter", "SiteSpec",
    "SpatialTransformer",
    "attention_factory", "attention_name", "split_specs",
]  # fmt: skip
