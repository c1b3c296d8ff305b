"""The command `bam`: each verb is a typed function whose signature and docstring become its flags and help."""

from bam.cli.main import VERBS, main

__all__ = ["VERBS", "main"]
