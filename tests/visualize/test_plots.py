import ast
import builtins
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beta_clip_hf import visualize
from beta_clip_hf.visualize import (
    attention,
    plot_phrase_attention,
    plot_recall_curves,
    plot_region_choices,
    plot_region_scores,
    plot_training_curves,
    style,
)
from beta_clip_hf.visualize.heat_maps import enlarged, highest_of, overlay


pytest.importorskip("matplotlib")

LOG_HISTORY = [
    {
        "step": 1,
        "loss": 8.0,
        "clip_loss": 4.0,
        "beta_cal_loss": 4.0,
        "learning_rate": 0.0,
        "pooler_learning_rate": 1e-3,
    },
    {
        "step": 2,
        "loss": 7.0,
        "clip_loss": 3.0,
        "beta_cal_loss": 4.0,
        "learning_rate": 1e-5,
        "pooler_learning_rate": 1e-3,
    },
    {"step": 2, "eval_i2t_r1": 0.1, "eval_t2i_r1": 0.2, "eval_photos_i2t_r10": 0.4, "eval_runtime": 1.0},
    {"step": 2, "train_loss": 7.5, "train_runtime": 3.0},
]


def panels_of(figures):
    return [axes.get_title(loc="left") for axes in figures[0].axes]


def read(path):
    image = Image.open(path)
    assert image.format == "PNG" and image.width > 300
    return image.convert("RGB")


def test_curves_have_a_panel_for_each_kind_of_number(tmp_path, figures):
    path = plot_training_curves(LOG_HISTORY, tmp_path / "new" / "curves.png")
    assert path == tmp_path / "new" / "curves.png" and read(path)
    losses, recalls, rates = figures[0].axes
    assert {line.get_label(): list(line.get_ydata()) for line in losses.lines} == {
        "total": [8.0, 7.0],
        "CLIP loss": [4.0, 3.0],
        "β-CAL loss": [4.0, 4.0],
    }
    assert {line.get_label(): list(line.get_ydata()) for line in recalls.lines} == {
        "image to text R@1": [10.0],
        "text to image R@1": [20.0],
        "photos image to text R@10": [40.0],
    }
    assert [line.get_label() for line in rates.lines] == ["towers", "pooler"] and rates.get_yscale() == "log"


def test_a_panel_without_data_is_left_out(tmp_path, figures):
    plot_training_curves([{"step": 1, "loss": 1.0}], tmp_path / "curves.png")
    assert panels_of(figures) == ["Training loss"]
    with pytest.raises(ValueError, match=r"a loss, .* to draw, but the run has logged none \(a run shorter than"):
        plot_training_curves([{"step": 1, "grad_norm": 1.0}], tmp_path / "curves.png")


def test_recall_has_a_panel_for_each_direction(tmp_path, figures):
    curves = {
        "text_to_image": {"long/cls": [(1, 0.5), (5, 0.8)], "long/chance": [(1, 0.1), (5, 0.5)]},
        "image_to_text": {"long/cls": [(1, 0.6), (5, 0.9)]},
    }
    assert read(plot_recall_curves(curves, tmp_path / "recall.png"))
    to_image, to_text = figures[0].axes
    assert panels_of(figures) == ["text to image, R@k in %", "image to text, R@k in %"]
    assert {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in to_image.lines} == {
        "long/cls": ([1, 5], [50, 80]),
        "long/chance": ([1, 5], [10, 50]),
    }
    assert to_image.get_ylim() == to_text.get_ylim() == (0, pytest.approx(94.5))  # one scale
    assert to_image.lines[1].get_color() == style.FAINT


def test_the_heat_is_drawn_where_the_map_is_hot_and_the_box_around_it(tmp_path, figures):
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 3] = maps[1, 3, 0] = 1  # top right, bottom left
    boxes = [[[0.75, 0.0, 1.0, 0.25]], []]
    photo = Image.new("RGB", (80, 40), "white")
    path = plot_phrase_attention(photo, ["one", "two"], maps, tmp_path / "heat.png", boxes, notes=["0.5", ""])
    assert read(path)
    _, first, second, bar = figures[0].axes
    drawn = [axes.images[-1].get_array() for axes in (first, second)]
    assert [image.shape for image in drawn] == [(400, 800, 3)] * 2  # ten times as large: smooth
    colour = [np.ptp(image.astype(int), axis=-1) for image in drawn]
    hottest = [divmod(int(of_image.argmax()), 800) for of_image in colour]
    assert hottest[0][0] < 100 and hottest[0][1] >= 600 and hottest[1][0] >= 300 and hottest[1][1] < 200
    assert bar.get_ylim() == (1, 16)  # all mass in one of 16 cells
    (box,) = first.patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (599.5, -0.5, 200, 100)
    assert not second.patches
    assert [[text.get_text() for text in axes.texts] for axes in (first, second)] == [["0.5"], [""]]


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
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == bool(letters) and read(tmp_path / "letters.png")
    if letters:
        named = told[0].partition("can draw ")[2].partition(",")[0]
        assert set(letters) <= set(named) and "on a .html page" in told[0]


def test_other_warnings_of_a_figure_are_passed_on(tmp_path):
    figure = style.new_figure(1, 1)
    figure.savefig = lambda *_, **__: warnings.warn("something else", UserWarning, stacklevel=2)
    with pytest.warns(UserWarning, match="something else"):
        style.save(figure, tmp_path / "figure.png")


def test_bad_maps_are_refused(tmp_path):
    image, path = Image.new("RGB", (32, 32)), tmp_path / "none.png"
    for maps, phrases, message in [
        (torch.ones(2, 4, 4), ["one"], "as many as each other"),
        (torch.ones(4, 4), ["one"], "must be"),
        (torch.ones(0, 4, 4), [], "must be"),
        (-torch.ones(1, 4, 4), ["one"], "negative"),
        (torch.full((1, 4, 4), torch.nan), ["one"], "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            plot_phrase_attention(image, phrases, maps, path)
    assert not path.exists()


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r'pip install "beta-clip-hf\[eval\]"'):
        plot_training_curves(LOG_HISTORY, tmp_path / "curves.png")


def test_matplotlib_is_not_imported_with_the_module():
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for file in Path(visualize.__file__).parent.glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert "torch" in imported and not any(name.startswith("matplotlib") for name in imported)


def test_region_choices_show_each_box_and_mark_a_wrong_first_choice(figures, tmp_path):
    texts = [["a red cube", "a blue cube"], ["a ball", "$a cone$", "a disc"], ["a ring", "a rod"]]
    probabilities = [torch.tensor([0.7, 0.3]), [0.2, 0.5, 0.3], [0.6, 0.4]]
    boxes = torch.tensor([[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1], [0.5, 0, 1, 0.25]])
    path = plot_region_choices(Image.new("RGB", (80, 40)), boxes, texts, probabilities, tmp_path / "new/regions.png")
    assert Image.open(path).width > 800
    picture, *panels = figures[0].axes
    assert [text.get_text() for text in picture.texts] == ["1", "2", "3"]
    assert [(box.get_width(), box.get_height()) for box in picture.patches[:3]] == [
        (400, 200),
        (600, 200),
        (400, 100),
    ]
    assert [panel.get_title(loc="left") for panel in panels] == ["region 1", "region 2", "region 3", ""]
    assert [bar.get_width() for bar in panels[1].patches] == pytest.approx([0.2, 0.5, 0.3])
    assert [[bool(bar.get_hatch()) for bar in panel.patches] for panel in panels[:2]] == [
        [False, False],
        [False, True, False],
    ]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == texts[1]
    with pytest.raises(ValueError, match=r"as many as each other, but are 3, \[2, 3\], \[2, 3, 2\]"):
        plot_region_choices(Image.new("RGB", (8, 8)), boxes, texts[:2], probabilities, path)


def test_region_scores_show_the_best_text_of_each(figures, tmp_path):
    texts, scores = ["a red cube", "$a ball$", "一只狗"], torch.tensor([[0.1, 0.6, -0.2], [0.5, 0.3, 0.2]])
    boxes = [[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1]]
    path = plot_region_scores(Image.new("RGB", (80, 40)), boxes, texts, scores, tmp_path / "scores.png")
    assert read(path)
    picture, *panels = figures[0].axes
    assert [text.get_text() for text in picture.texts] == ["1", "2"]
    for panel, of_region, best in zip(panels, scores.tolist(), (1, 0), strict=True):
        assert [bar.get_width() for bar in panel.patches] == pytest.approx(of_region)
        assert [text.get_text().strip() for text in panel.texts] == [f"{score:.2f}" for score in of_region]
        weights = [label.get_fontweight() for label in panel.get_yticklabels()]
        assert weights == ["bold" if place == best else "normal" for place in range(3)]
        assert panel.get_xlim()[0] <= -0.2 and panel.get_xlim()[1] > 0.6  # the same for both
        assert not any(bar.get_hatch() for bar in panel.patches)
    for bad in ([], [[]] * 2, [[0.1] * 3]):
        with pytest.raises(ValueError, match="boxes, texts and scores must be as many as each other"):
            plot_region_scores(Image.new("RGB", (8, 8)), boxes, texts, bad, path)
