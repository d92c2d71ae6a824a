"""Figures of regions: numbered boxes, and a bar for each text."""

import pytest
import torch
from PIL import Image

from beta_clip_hf.visualize import plot_region_choices, plot_region_scores
from visualize.png_reader import read_png


pytestmark = pytest.mark.slow


pytest.importorskip("matplotlib")


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
    assert [bool(bar.get_hatch()) for bar in panels[0].patches] == [False, False]
    assert [bool(bar.get_hatch()) for bar in panels[1].patches] == [False, True, False]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == texts[1]
    with pytest.raises(ValueError, match=r"as many as each other, but are 3, \[2, 3\], \[2, 3, 2\]"):
        plot_region_choices(Image.new("RGB", (8, 8)), boxes, texts[:2], probabilities, path)


def test_region_scores_show_the_best_text_of_each(figures, tmp_path):
    texts, scores = ["a red cube", "$a ball$", "一只狗"], torch.tensor([[0.1, 0.6, -0.2], [0.5, 0.3, 0.2]])
    boxes = [[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1]]
    path = plot_region_scores(Image.new("RGB", (80, 40)), boxes, texts, scores, tmp_path / "scores.png")
    assert read_png(path)
    picture, *panels = figures[0].axes
    assert [text.get_text() for text in picture.texts] == ["1", "2"]
    for panel, region_scores, best in zip(panels, scores.tolist(), (1, 0), strict=True):
        assert [bar.get_width() for bar in panel.patches] == pytest.approx(region_scores)
        assert [text.get_text().strip() for text in panel.texts] == [f"{score:.2f}" for score in region_scores]
        weights = [label.get_fontweight() for label in panel.get_yticklabels()]
        assert weights == ["bold" if place == best else "normal" for place in range(3)]
        # Both panels have one scale, with room for the scores of both.
        assert panel.get_xlim()[0] <= -0.2 and panel.get_xlim()[1] > 0.6
        assert not any(bar.get_hatch() for bar in panel.patches)
    for bad_scores in ([], [[]] * 2, [[0.1] * 3]):
        with pytest.raises(ValueError, match="boxes, texts and scores must be as many as each other"):
            plot_region_scores(Image.new("RGB", (8, 8)), boxes, texts, bad_scores, path)
