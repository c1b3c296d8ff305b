"""A page that shows what a network attends to: one self-contained HTML file to step through images and sites."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bam.files import write_atomically
from bam.reports.templates import environment

NAME = "gallery.html"


def write_gallery(out: Path, title: str, images: Sequence[dict[str, Any]], notes: Sequence[str] = ()) -> Path:
    """Write gallery.html into the folder `out`; returns its path.

    Args:
        out: folder for the page.
        title: title of the page.
        images: one entry per image: "name", "png" (base64), "prediction" (pairs of text and score), and "sites". Each
            site has "site", "maps" (each with "name", "height", "width", "low", "high" and "values": bytes in base64,
            row by row, 0 for low and 255 for high), "strongest" and "weakest" (pairs of channel and value), and "words"
            (pairs of word and weight).
        notes: notes to show below the title.
    """
    page = environment().get_template("gallery.html.jinja")
    content = {"title": title, "notes": notes, "images": images, "data": _for_script(images)}
    write_atomically(out / NAME, page.render(content))
    return out / NAME


def _for_script(content: Any) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element."""
    text = json.dumps(content, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
