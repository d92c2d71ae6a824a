"""Figures of where phrases look: heat where the map is hot, boxes, titles, one colour scale."""

import numpy as np
import pytest
import torch
from PIL import Image

from beta_clip_hf.visualize import attention, plot_phrase_attention
from beta_clip_hf.visualize.heat_maps import enlarged, highest_of, overlay
from visualize.png_reader import read_png


pytestmark = pytest.mark.slow


pytest.importorskip("matplotlib")


def most_colourful(image):
    """Row and column of the pixel that is least grey."""
    colourfulness = np.ptp(image.astype(int), axis=-1)
    return np.unravel_index(colourfulness.argmax(), colourfulness.shape)


def test_the_heat_is_drawn_where_the_map_is_hot_and_the_box_around_it(tmp_path, figures):
    maps = torch.zeros(2, 4, 4)
    top_right, bottom_left = maps
    top_right[0, 3] = 1
    bottom_left[3, 0] = 1
    boxes = [[[0.75, 0.0, 1.0, 0.25]], []]
    photo = Image.new("RGB", (80, 40), "white")
    path = plot_phrase_attention(photo, ["a ball", "a box"], maps, tmp_path / "heat.png", boxes, notes=["0.5", ""])
    assert read_png(path)
    _, first, second, bar = figures[0].axes
    drawn = [axes.images[-1].get_array() for axes in (first, second)]
    # Ten times as large as the photo, for a smooth map.
    assert [image.shape for image in drawn] == [(400, 800, 3)] * 2
    hottest = [most_colourful(image) for image in drawn]
    assert hottest[0][0] < 100 and hottest[0][1] >= 600
    assert hottest[1][0] >= 300 and hottest[1][1] < 200
    # All mass is in one of 16 patches.
    assert bar.get_ylim() == (1, 16)
    (box,) = first.patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (599.5, -0.5, 200, 100)
    assert not second.patches
    assert [text.get_text() for text in (*first.texts, *second.texts)] == ["0.5", ""]


def test_the_overlay_is_that_of_pages(tmp_path, figures):
    """One home of the colours, and one scale for all maps of a figure."""
    photo = Image.fromarray(torch.randint(256, (60, 40, 3), dtype=torch.uint8).numpy())
    maps = torch.rand(3, 6, 4)
    plot_phrase_attention(photo, ["a", "b", "c"], maps, tmp_path / "heat.png")
    for axes, heat in zip(figures[0].axes[1:4], maps, strict=True):
        expected = overlay(enlarged(photo), heat, highest_of(*maps))
        np.testing.assert_array_equal(axes.images[-1].get_array(), np.asarray(expected))


def test_the_colour_bar_has_the_colours_of_the_overlay(tmp_path, figures):
    maps = torch.tensor([[[9.0, 1, 1, 1]], [[1.0, 1, 1, 1]]])
    plot_phrase_attention(Image.new("RGB", (40, 10), (127, 127, 127)), ["a", "b"], maps, tmp_path / "heat.png")
    *_, heat, uniform, bar = figures[0].axes
    scale = bar.collections[-1] if bar.collections else bar.images[-1]
    end, start = scale.to_rgba([3.0, 1.0])[:, :3] * 255
    np.testing.assert_allclose(heat.images[-1].get_array()[5, 2], end, atol=2)
    np.testing.assert_allclose(uniform.images[-1].get_array()[5, 2], start, atol=2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "phrase", ["$5 or $x^2$ \\frac", "一只狗", "a\x00b\n\tc", "", "long " * 60, "unbreakable" * 30]
)
def test_any_text_makes_a_title(tmp_path, figures, phrase):
    plot_phrase_attention(Image.new("RGB", (32, 32)), [phrase], torch.ones(1, 2, 2), tmp_path / "title.png")
    lines = figures[0].axes[1].get_title().split("\n")
    assert len(lines) <= 3 and all(len(line) <= 28 for line in lines)


@pytest.mark.parametrize(("phrase", "letters"), [("犬が走る 🐕", "が犬走🐕"), ("a dog", "")])
def test_letters_that_no_font_has_are_told_once(tmp_path, caplog, monkeypatch, phrase, letters):
    monkeypatch.setattr(attention, "font_families", lambda: ["DejaVu Sans"])
    plot_phrase_attention(Image.new("RGB", (32, 32)), [phrase] * 2, torch.ones(2, 2, 2), tmp_path / "letters.png")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(letters) and read_png(tmp_path / "letters.png")
    if letters:
        named = messages[0].partition("can draw ")[2].partition(",")[0]
        assert set(letters) <= set(named) and "on a .html page" in messages[0]


def test_bad_maps_are_refused(tmp_path):
    image, path = Image.new("RGB", (32, 32)), tmp_path / "none.png"
    for maps, phrases, message in [
        (torch.ones(2, 4, 4), ["a ball"], "as many as each other"),
        (torch.ones(4, 4), ["a ball"], "must be"),
        (torch.ones(0, 4, 4), [], "must be"),
        (-torch.ones(1, 4, 4), ["a ball"], "negative"),
        (torch.full((1, 4, 4), torch.nan), ["a ball"], "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            plot_phrase_attention(image, phrases, maps, path)
    assert not path.exists()


@pytest.mark.parametrize(("size", "lowest", "highest"), [((900, 40), 1.6, 4), ((40, 900), 5.4, 8), ((64, 64), 2.7, 4)])
def test_thin_images_have_figures_of_ordinary_sizes(tmp_path, figures, size, lowest, highest):
    plot_phrase_attention(Image.new("RGB", size), ["a dog"], torch.ones(1, 2, 3), tmp_path / "thin.png")
    assert lowest < figures[-1].get_size_inches()[1] < highest
