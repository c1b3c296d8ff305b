"""Attention modules: shape-preserving `nn.Module`s, one file per paper, and the table that names them."""

from torch import nn

from bam.attention.attended import Attended, named_modules
from bam.attention.bam import BAM
from bam.attention.se import SE

#: Name -> class. Every entry is built as `cls(channels)` and takes `identity=`.
ATTENTION: dict[str, type[nn.Module]] = {"bam": BAM, "se": SE}

__all__ = ["ATTENTION", "BAM", "SE", "Attended", "named_modules"]
