"""Text that is safe inside Markdown."""

import re

_MARKUP = re.compile(r"([\\`*_\[\]|~])")


def in_markdown(text: object) -> str:
    """Text that Markdown shows as it is: in paragraphs, tables and links."""
    one_line = " ".join(str(text).split())
    html_safe = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", html_safe)


def fenced(text: str) -> str:
    """A block of code, whatever backticks the text has."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def indented(text: str) -> str:
    """A block of code without fences."""
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip().splitlines())
