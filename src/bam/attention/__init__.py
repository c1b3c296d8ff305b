"""Attention modules, one file per paper: their contract, their table, and the class that carries them in a network."""

from bam.attention.attended import Attended
from bam.attention.bam import BAM, BAMChannel, BAMSpatial
from bam.attention.cbam import CBAM
from bam.attention.contract import AttentionMaps, AttentionModule
from bam.attention.coordinate import Coordinate
from bam.attention.deformable import Deformable
from bam.attention.dynamic_filter import DynamicFilter
from bam.attention.eca import ECA
from bam.attention.gc import GC
from bam.attention.residual_attention import ResidualAttention, SoftMask, mask_depth
from bam.attention.scse import SCSE
from bam.attention.se import SE
from bam.attention.simam import SimAM
from bam.attention.spatial_transformer import SpatialTransformer
from bam.attention.spec import AttentionSpec, SiteSpec, split_specs
from bam.attention.table import ATTENTION, attention_factory, attention_name

__all__ = [
    "ATTENTION", "BAM", "CBAM", "ECA", "GC", "SCSE", "SE", "BAMChannel", "BAMSpatial", "Coordinate", "Deformable",
    "DynamicFilter", "ResidualAttention", "SimAM", "SoftMask", "SpatialTransformer", "mask_depth",
    "Attended", "AttentionMaps", "AttentionModule", "AttentionSpec", "SiteSpec",
    "attention_factory", "attention_name", "split_specs",
]  # fmt: skip
