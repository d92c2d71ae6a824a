"""The demo as a person meets it: in a browser."""

import ipaddress
import socket
from contextlib import ExitStack

import pytest
from PIL import Image

from beta_clip_hf.demo import markup, views
from beta_clip_hf.demo.app import open_page
from beta_clip_hf.demo.limits import Limits

from .browser import CHROMIUM, free_port, open_browser
from .pictures import picture_of, same


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which could not be installed"),
]

CAPTION = "A red circle is above a blue square. The square is large."
LIMITS = Limits(upload_mib=0.5, megapixels=1, per_minute=1000)


@pytest.fixture(scope="module", autouse=True)
def extras():
    for name in ("gradio", "playwright"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def connections():
    """The addresses that this process connects to."""
    addresses, connect = [], socket.socket.connect

    def noted(self, address):
        addresses.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noted)
        yield addresses


@pytest.fixture(scope="module")
def serve(checkpoint, connections):
    """Starts the demo with some limits, of a collection or of scenes, and gives its address."""
    with ExitStack() as stack:

        def start(limits, **chosen):
            chosen = chosen or {"num_scenes": 8}
            page = stack.enter_context(open_page(limits, model=str(checkpoint), device="cpu", **chosen))
            from beta_clip_hf.demo.page import launch

            address = launch(page, port=free_port())
            stack.callback(page.blocks.close, verbose=False)
            return address

        yield start


@pytest.fixture(scope="module")
def address(serve):
    return serve(LIMITS)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """Opens a page, and checks at the end that it has loaded nothing from elsewhere and told of no error."""
    requests, errors, contexts = [], [], []

    def open_page(address):
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto(address)
        page.get_by_role("tab", name="Search").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    elsewhere = [url for url in requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert requests and not elsewhere and not errors


@pytest.fixture
def page(visit, address):
    return visit(address)


@pytest.fixture
def photo(collection, tmp_path):
    path = tmp_path / "photo.png"
    collection.example(2).image.save(path)
    return path


def shown(page, name):
    """The picture with a text below it, as the browser has it."""
    return picture_of(page.get_by_role("img", name=name, exact=True).get_attribute("src"))


def told(page):
    """The sentence that the page tells."""
    return page.get_by_test_id("toast-text").last.inner_text()


def look(page, photo, caption=CAPTION):
    page.get_by_role("tab", name="What does each phrase see?").click()
    page.set_input_files("#explore-image input[type=file]", photo)
    page.get_by_role("img", name="The image that was chosen").wait_for()
    page.fill("#explore-caption textarea", caption)
    page.click("#look")


def test_the_page_is_there(page):
    assert page.title() == "β-CLIP demo" and page.get_by_role("heading", name="β-CLIP").is_visible()
    assert page.get_by_role("tab").all_inner_texts() == [
        "Search", "What does each phrase see?", "Compare two captions",
    ]  # fmt: skip
    assert "8 generated scenes" in page.locator("header").inner_text()


def test_a_phrase_is_clicked_and_its_heat_map_is_seen(page, photo, collection):
    embedder = collection.index.embedder
    seen = views.explore(embedder.model, embedder.processor, Image.open(photo).convert("RGB"), CAPTION)
    look(page, photo)
    first = shown(page, "Where “A red circle” looks")
    plain = shown(page, "The image as the model sees it")
    assert same(plain, seen.view()) and same(first, seen.heat_map(2)) and not same(first, plain)

    page.get_by_role("radio", name="a blue square", exact=True).click()
    second = shown(page, "Where “a blue square” looks")
    place = [text.text for text in seen.texts].index("a blue square")
    assert same(second, seen.heat_map(place)) and not same(second, first)

    page.get_by_role("combobox", name="Attention head").and_(page.locator(":visible")).click()
    page.get_by_role("option", name="head 3").click()
    page.wait_for_function("uri => document.querySelector('#shown .heat img').src !== uri", arg=_uri(page))
    assert same(shown(page, "Where “a blue square” looks"), seen.heat_map(place, 3))


def _uri(page):
    return page.locator("#shown .heat img").get_attribute("src")


def test_phrases_are_chosen_by_keyboard(page, photo):
    look(page, photo)
    page.get_by_role("img", name="Where “A red circle” looks").wait_for()
    page.get_by_role("radio", name="A red circle", exact=True).focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    page.get_by_role("img", name="Where “A red circle is above a blue square.” looks").wait_for()


def test_an_example_is_one_click_away(page, collection):
    page.get_by_role("tab", name="What does each phrase see?").click()
    page.click("#explore-example")
    page.locator("#shown .heat img").wait_for()
    assert page.input_value("#explore-caption textarea") == collection.example(0).caption
    assert same(shown(page, "The image as the model sees it"), views.shown_size(collection.example(0).image))


@pytest.mark.parametrize("width", [1250, 1000])
def test_labels_fit_on_their_buttons(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    for tab, button in (("What does each phrase", "#explore-example"), ("Compare two captions", "#compare-example")):
        page.get_by_role("tab", name=tab).click()
        page.locator(button).wait_for()
        widths = page.evaluate(
            """name => {
                const button = document.querySelector(name), text = document.createRange();
                text.selectNodeContents(button);
                return [text.getBoundingClientRect().width, button.clientWidth];
            }""",
            button,
        )
        assert widths[0] + 12 <= widths[1]


def test_two_captions_are_compared(page, photo, collection):
    embedder = collection.index.embedder
    _, first, second = collection.example(2)
    compared = views.compare(embedder.model, embedder.processor, Image.open(photo).convert("RGB"), first, second)
    page.get_by_role("tab", name="Compare two captions").click()
    page.set_input_files("#compare-image input[type=file]", photo)
    page.locator("#compare-image img").wait_for()
    page.fill("#caption-a textarea", first)
    page.fill("#caption-b textarea", second)
    page.click("#compare")
    page.locator("#compared table").wait_for()
    rows = [row.split("\t") for row in page.locator("#compared tbody tr").all_inner_texts()]
    for row, (name, pair) in zip(rows, compared.scores().items(), strict=True):
        winner = "A" if pair[0] > pair[1] else "B"
        cells = [f"{score:.3f}{' ✓' if letter == winner else ''}" for letter, score in zip("AB", pair, strict=True)]
        assert row == [name, *cells, f"{winner}, by {abs(pair[0] - pair[1]):.3f}"]
    assert page.locator(".verdict").inner_text() == markup.verdict_of(list(compared.scores().values()))
    images = page.locator("#compared figure img").all()
    heat_maps = [picture_of(image.get_attribute("src")) for image in images]
    assert len(heat_maps) == len(compared.seen.texts) - 2
    for place, heat_map in enumerate(heat_maps, 2):
        assert same(heat_map, compared.seen.heat_map(place))


def test_a_collection_is_searched(page, collection):
    text = "a red circle and a blue square"
    found = views.find(collection.index, text, top=8, rerank=False)
    page.fill("#query textarea", text)
    page.click("#search")
    page.get_by_role("heading", name="Result 1").wait_for()
    images = page.locator("#found .thumbnail-item img")
    assert [image.get_attribute("alt") for image in images.all()] == [
        label for _, label in views.thumbnails(collection.index, found)
    ]
    assert found.hits[0].columns["caption"] in page.locator("#near").inner_text()
    page.locator("#found .thumbnail-item").nth(1).focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Result 2").wait_for()
    expected = markup.hit_html(collection.index, found, 1)
    for phrase in ("a red circle", "a blue square"):
        uri = page.get_by_role("img", name=f"Where “{phrase}” looks", exact=True).get_attribute("src")
        assert uri in expected


def test_errors_are_sentences_and_texts_are_texts(page, photo, tmp_path):
    look(page, photo, caption="")
    assert told(page) == "The caption is empty: type a few words."
    page.reload()
    look(page, photo, caption='<img src=x onerror="alert(1)"> a <b>red</b> circle')
    page.locator("#shown .heat img").wait_for()
    assert page.locator("#shown b, #shown img[src=x]").count() == 0  # and `visit` has seen no dialog
    page.reload()
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:100])
    page.get_by_role("tab", name="What does each phrase see?").click()
    page.set_input_files("#explore-image input[type=file]", tmp_path / "broken.png")
    page.locator("#explore-image img").wait_for(state="attached")
    page.fill("#explore-caption textarea", CAPTION)
    page.click("#look")
    assert told(page) in (
        "This image is damaged, or of a rare kind: try a whole PNG or JPEG.",
        "This file cannot be read as an image: try a PNG or JPEG.",
    )


def test_uploads_are_limited(page, tmp_path):
    Image.effect_noise((1000, 1000), 100).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > LIMITS.upload_mib * 2**20
    page.get_by_role("tab", name="What does each phrase see?").click()
    page.set_input_files("#explore-image input[type=file]", tmp_path / "large.png")
    assert "exceed the maximum allowed size" in told(page)
    page.reload()
    Image.new("RGB", (2000, 600)).save(tmp_path / "wide.png")
    look(page, tmp_path / "wide.png")
    assert told(page) == "An image may have 1 million pixels, but this one has 2000 × 600: make it smaller."


def test_requests_are_limited(visit, serve, photo):
    page = visit(serve(Limits(per_minute=2)))
    for text in ("a red circle", "a blue square"):
        page.fill("#query textarea", text)
        page.click("#search")
        page.get_by_role("img", name=f"Where “{text}” looks", exact=True).wait_for()
    page.click("#search")
    assert told(page).startswith("You have asked 2 times within a minute: wait ")
    page.reload()
    page.get_by_role("tab", name="What does each phrase see?").click()
    page.set_input_files("#explore-image input[type=file]", photo)
    assert "You have asked 2 times within a minute: wait " in told(page)


def test_examples_without_a_caption_wait_for_one(visit, serve, tmp_path):
    for name in "abc":
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"{name}.png")
    page = visit(serve(LIMITS, photos=str(tmp_path)))
    (tmp_path / "a.png").unlink()
    page.get_by_role("tab", name="What does each phrase see?").click()
    page.click("#explore-example")
    page.get_by_text("A caption is needed: type one, then choose Look.").wait_for()
    assert page.get_by_role("img", name="The image that was chosen").is_visible()
    page.get_by_role("tab", name="Compare two captions").click()
    page.click("#compare-example")
    page.get_by_text("Two captions are needed: type what is missing, then choose Compare.").wait_for()
    assert page.locator("#compare-image img").is_visible()
    assert page.get_by_test_id("toast-text").count() == 0


def test_the_program_calls_nobody(address, page, connections):
    """After all that was done above in this process, from the import of Gradio on."""
    hosts = {place[0] for place in connections if isinstance(place, tuple)}
    assert hosts and all(ipaddress.ip_address(host).is_loopback for host in hosts)
