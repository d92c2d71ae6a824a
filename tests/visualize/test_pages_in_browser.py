"""Pages as a browser shows them: on a phone and on a desktop, by keyboard, light and dark."""

import io

import pytest
from PIL import Image

from beta_clip_hf.visualize.heat_maps import scale_image, scale_label
from beta_clip_hf.visualize.pages import Picture, Section, write_page
from demo.browser import CHROMIUM, open_browser


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
pytest.importorskip("playwright")

PATH = "/a/very/long/path" * 9 + "/photo_without_a_space_in_its_name_" + "x" * 90 + ".jpg"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    scale = Picture(scale_image(440, 20), scale_label(3), alt="Colour scale")
    sections = [Section("Where each phrase looks", [scale])]
    for number in range(6):
        image = Picture(
            Image.new("RGB", (300, 200), "red"), "whole image", alt=f"photo {number}", link=f"file:///{number}.jpg"
        )
        maps = [Picture(Image.new("RGB", (300, 200), "grey"), f"a phrase {place}") for place in range(3)]
        sections.append(Section(f"{number + 1}. 0.5  {PATH}", [image, *maps], "A caption. " * 20, is_card=True))
    sections.append(Section("A wide one", [Picture(Image.new("RGB", (1500, 200), "blue"), is_wide=True, alt="wide")]))
    return write_page(tmp_path_factory.mktemp("pages") / "page.html", PATH, sections).as_uri()


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.mark.parametrize(("width", "columns"), [(390, 1), (800, 2), (1280, 4)])
def test_cards_fill_the_width_and_nothing_is_wider(browser, address, width, columns):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [card.bounding_box() for card in page.locator(".cards section").all()]
    assert len({round(box["x"]) for box in boxes}) == columns
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    for image in page.locator("img").all():
        box = image.bounding_box()
        assert box["x"] + box["width"] <= width and box["width"] >= 60


def test_links_are_reached_by_the_keyboard_and_show_it(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(address)
    for number in range(2):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == f"file:///{number}.jpg"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    assert all(image.get_attribute("alt") for image in page.locator("img").all())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_scale_and_its_ends_follow_the_mode(browser, address, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto(address)
    shot = page.locator("section").first.screenshot()
    grey = Image.open(io.BytesIO(shot)).convert("L")
    background = grey.getpixel((grey.width - 2, grey.height - 2))
    # Nearly all is background: no strip of the other mode lies behind the scale.
    histogram = grey.histogram()
    assert sum(histogram[max(0, background - 3) : background + 4]) > 0.75 * grey.width * grey.height
    assert (background > 240) == (scheme == "light")
    # Text stands out, the small one too.
    for selector in ("section p", ".summary", "figcaption"):
        colour = page.locator(selector).first.evaluate("element => getComputedStyle(element).color")
        brightness = sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3
        assert abs(brightness - background) > 110, (selector, colour)
