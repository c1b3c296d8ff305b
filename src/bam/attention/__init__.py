"""Attention modules: shape-preserving `nn.Module`s, one file per paper, and the table that names them."""

from torch import nn

from bam.attention.attended import Attended, named_modules
from bam.attention.bam import BAM

#: Name -> class. Every entry is built as `cls(channels)` and takes `identity=`.
ATTENTION: dict[str, type[nn.Module]] = {"bam": BAM}

__all__ = ["ATTENTION", "BAM", "Attended", "named_modules"]
