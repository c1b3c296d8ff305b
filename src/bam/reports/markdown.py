"""Escape text for Markdown."""

import re

_MARKUP = re.compile(r"([\\`*_|~])")
_INTERVAL = re.compile(r"\[[^\[\]]*\](?![(\[:])")  #: brackets that do not start a link


def in_markdown(text: object) -> str:
    """Text escaped so that Markdown shows it verbatim in paragraphs, tables and links."""
    one_line = " ".join(str(text).split())
    html_safe = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = _MARKUP.sub(r"\\\1", html_safe)
    unsafe = any(bracket in _INTERVAL.sub("", escaped) for bracket in "[]")
    return re.sub(r"([\[\]])", r"\\\1", escaped) if unsafe else escaped


def fenced(text: str) -> str:
    """A fenced code block, safe for text with any number of backticks."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def indented(text: str) -> str:
    """An indented code block."""
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip().splitlines())
