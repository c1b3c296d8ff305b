"""Names and numbers in Markdown: shown as they are."""

import pytest

from bam.reports.markdown import fenced, in_markdown, indented


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bam(reduction=8) [-1.20, +0.30]", "bam(reduction=8) [-1.20, +0.30]"),
        ("a|b*c_d`e\\", r"a\|b\*c\_d\`e\\"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[x](http://y)", r"\[x\](http://y)"),
        ("]x[", r"\]x\["),
        ("one\n# two", "one # two"),
    ],
)
def test_text(text, expected):
    assert in_markdown(text) == expected


def test_code():
    assert fenced("a\n") == "```\na\n```" and fenced("x ```` y").startswith("`````\n")
    assert indented("a:\n  b\n\nc\n") == "    a:\n      b\n\n    c"
