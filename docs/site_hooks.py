"""Pages of the site that are no Markdown in docs/: README is its home; changelog, how to contribute, notebooks."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, with links as the site has them."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=_inside((ROOT / name).read_text())))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        content = "\n\n".join(_cells(json.loads(path.read_text())))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to README lead to the home page, links to notebooks to their pages."""
    return markdown.replace("](../../README.md", "](../index.md").replace(".ipynb)", ".md)")


def _cells(notebook: dict) -> Iterator[str]:
    """The cells of a notebook, and what they printed and drew, as Markdown."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                yield f'<img alt="output" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
            else:
                yield f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```"


def _inside(text: str) -> str:
    """`text` with links relative to docs/; files that the site lacks keep their name alone."""
    for name, page in PAGES.items():
        text = text.replace(f"]({name})", f"]({page})")
    text = text.replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((CITATION\.cff|LICENSE|src/[^)]*|tests/[^)]*|examples/[^)]*)\)", r"\1 (`\2`)", text)
