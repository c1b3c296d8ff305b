"""Pages of the site that lie beside docs/: README is its home, with the changelog and how to contribute."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, with links as the site has them."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=_inside((ROOT / name).read_text())))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links from docs/ to README lead to the home page."""
    return markdown.replace("](../../README.md", "](../index.md")


def _inside(text: str) -> str:
    """`text` with links relative to docs/; files that the site lacks keep their name alone."""
    for name, page in PAGES.items():
        text = text.replace(f"]({name})", f"]({page})")
    text = text.replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((CITATION\.cff|LICENSE|src/[^)]*|tests/[^)]*|examples/[^)]*)\)", r"\1 (`\2`)", text)
