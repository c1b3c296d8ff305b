"""Build a command line from a typed function and its docstring; a recipe's fields become flags."""

from bam.flags.parser import flags_of
from bam.flags.parsing import parse_flags

__all__ = ["flags_of", "parse_flags"]
