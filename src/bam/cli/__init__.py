"""The command `bam`: each verb is a typed function; its signature and docstring are the verb's flags and help."""

from bam.cli.main import VERBS, main

__all__ = ["VERBS", "main"]
