"""The `bam` command. Each verb is a typed function; its signature and docstring become its flags and help."""

from bam.cli.main import VERBS, main

__all__ = ["VERBS", "main"]
