"""A real browser for pages: headless Chromium, offline. With BAM_SCREENSHOTS=FOLDER the pages' pictures are kept."""

import os
import shutil
from pathlib import Path

import pytest

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


@pytest.fixture(scope="session")
def chromium():
    """A running browser; tests skip where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a file in a page of a given width and colour scheme, without network; errors in its scripts fail."""
    contexts, problems = [], []

    def open_page(path: Path, width: int = 1280, scheme: str = "light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def looks_right(visit):
    """Opens a page at both widths, light and dark: nothing wider than the screen, colours follow the scheme."""

    def check(path: Path, name: str) -> None:
        for width in WIDTHS:
            backgrounds = set()
            for scheme in SCHEMES:
                page = visit(path, width, scheme)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
                if folder := os.environ.get("BAM_SCREENSHOTS"):
                    page.screenshot(path=f"{folder}/{name}-{width}-{scheme}.png", full_page=True)
            assert len(backgrounds) == len(SCHEMES)

    return check
