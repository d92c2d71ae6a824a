"""
Chromium without a window, driven by Playwright: for the tests, and for the pictures of docs/demo.md and pictures.md.

    python tests/demo/browser.py docs/images
"""

import io
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_port() -> int:
    """One that nothing listens on just now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextmanager
def open_browser() -> Iterator[Any]:
    """A Playwright browser; there is no sandbox for root, and what is opened is our own page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


def take_pictures(address: str, folder: Path) -> None:
    """Each tab of a demo that is running, after an example was tried, as `demo_app_TAB.png`."""
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 600})
        page.goto(address)
        page.fill("#query textarea", "A red triangle and a yellow disc.")
        page.click("#search")
        page.get_by_role("img", name="Where “a yellow disc” looks").wait_for()
        _save(page, folder / "demo_app_search.png")
        page.get_by_role("tab", name="What does each phrase see?").click()
        page.click("#explore-example")
        page.locator("#shown .heat img").wait_for()
        page.get_by_role("radio", name="a yellow circle", exact=True).click()
        page.get_by_role("img", name="Where “a yellow circle” looks").wait_for()
        _save(page, folder / "demo_app_phrases.png")
        page.get_by_role("tab", name="Compare two captions").click()
        page.click("#compare-example")
        page.locator("#compared figure img").first.wait_for()
        _save(page, folder / "demo_app_compare.png")


def _save(page: Any, path: Path) -> None:
    page.wait_for_timeout(1500)  # transitions end
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    image.save(path, optimize=True)


def take_page_picture(html: Path, path: Path) -> None:
    """The top of a page."""
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1120, "height": 930})
        page.goto(html.as_uri())
        Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, optimize=True)


def main(folder: Path) -> None:
    """Draws the pictures of the documents with the small β-CLIP that ships."""
    from beta_clip_hf.data.scenes import SceneDataset, default_model
    from beta_clip_hf.demo.app import open_page
    from beta_clip_hf.visualize.look import show_image

    with TemporaryDirectory() as temporary:
        # A scene of three objects.
        scene = SceneDataset(3, seed=7, level="easy", image_size=256)[2]
        image, html = Path(temporary) / "scene.png", Path(temporary) / "seen.html"
        scene["image"].save(image)
        caption = "A yellow triangle is at the top. A green cross is to the left of a red square."
        show_image(default_model(), image, [caption], html)
        take_page_picture(html, folder / "show_page.png")
    with open_page() as page:
        from beta_clip_hf.demo.page import launch

        take_pictures(launch(page, port=free_port()), folder)
        page.blocks.close(verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
