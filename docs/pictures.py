"""Photograph a finished comparison for README: `make demo`, then `python docs/pictures.py comparisons/digits-small`.

Writes docs/report.png and docs/gallery.png. Needs playwright, Chromium and Pillow.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
#: Picture -> (page below the comparison, height in pixels, keys to press).
PAGES = {"report.png": ("report.html", 900, ""), "gallery.png": ("attention/bam/gallery.html", 900, "2")}
WIDTH = 960


def take(comparison: Path) -> None:
    """Write each picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (page_name, height, keys) in PAGES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": height})
            page.goto((comparison / page_name).resolve().as_uri())
            for key in keys:
                page.keyboard.press(key)
            Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(DOCS / name, optimize=True)
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
