"""Pages: one file that holds everything, and shows every text as it is."""

import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image

from beta_clip_hf.visualize.pages import Picture, Section, figure_html, jpeg_uri, png_uri, write_page


class Reader(HTMLParser):
    """What a browser would see: tags in order, and all text."""

    def __init__(self):
        super().__init__()
        self.tags, self.images, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs).get("class")))
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.text += data


def test_texts_are_shown_as_they_are_and_pictures_are_inside(tmp_path):
    evil = '<script>alert("x")</script> & <b>'
    pictures = [Picture(Image.new("RGB", (50, 40), "red"), evil, is_marked=True), Picture(Image.new("L", (9, 9)))]
    path = write_page(tmp_path / "new" / "page.html", evil, [Section(evil, pictures, note=evil)], summary=evil)
    page = Reader()
    page.feed(path.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags and "b" not in tags and tags.count("img") == 2
    # Head, title, summary, text, note and caption.
    assert page.text.count(evil) == 6
    assert page.tags.count(("figure", "marked")) == 1
    assert not re.search(r"""(src|href)=["'](?!data:)""", path.read_text(encoding="utf-8"))
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    image = Image.open(io.BytesIO(base64.b64decode(page.images[0].partition(",")[2])))
    assert image.size == (50, 40) and image.getpixel((20, 20))[0] > 240 > 20 > image.getpixel((20, 20))[1]


def test_large_pictures_are_stored_small():
    image = Image.new("RGB", (3000, 1500), "blue")
    stored = Image.open(io.BytesIO(base64.b64decode(jpeg_uri(image, 400).partition(",")[2])))
    assert stored.size == (400, 200) and image.size == (3000, 1500)


def test_a_wide_picture_keeps_its_size_and_a_section_needs_no_text(tmp_path):
    figure = Picture(Image.new("RGB", (1500, 300)), "two\nlines", is_wide=True, is_marked=True)
    page = Reader()
    page.feed(write_page(tmp_path / "page.html", "t", [Section("", [figure])], width=100).read_text(encoding="utf-8"))
    assert ("figure", "marked wide") in page.tags and "two\nlines" in page.text
    assert Image.open(io.BytesIO(base64.b64decode(page.images[0].partition(",")[2]))).size == (1500, 300)
    # Only the summary is a paragraph.
    assert [tag for tag, _ in page.tags].count("p") == 1


def test_a_png_has_every_pixel_as_it_is():
    image = Image.new("RGB", (500, 3), "blue")
    image.putpixel((499, 2), (1, 2, 3))
    kind, _, content = png_uri(image).partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).tobytes() == image.tobytes()


def test_a_figure_escapes_its_caption_and_its_alternative_text():
    figure = figure_html("data:,", 'a "b" <i>', alt='c "d" <i>', classes=["heat", "wide"])
    page = Reader()
    page.feed(figure)
    assert page.tags == [("figure", "heat wide"), ("img", None), ("figcaption", None)] and page.text == 'a "b" <i>'
    assert 'alt="c &quot;d&quot; &lt;i&gt;"' in figure
    assert figure_html("data:,", "a").startswith('<figure><img src="data:," alt="a">')
