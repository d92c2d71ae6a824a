import ast
import builtins
from pathlib import Path

import pytest
import torch
from PIL import Image

from beta_clip_hf import visualize
from beta_clip_hf.visualize import plot_phrase_attention, plot_region_choices, plot_training_curves


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


@pytest.fixture
def figures(monkeypatch):
    """The figures that are made, to look into."""
    from matplotlib.figure import Figure

    made, initialise = [], Figure.__init__
    monkeypatch.setattr(Figure, "__init__", lambda self, *a, **k: (made.append(self), initialise(self, *a, **k))[1])
    return made


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
    with pytest.raises(ValueError, match=r"log_history must have losses.*grad_norm"):
        plot_training_curves([{"step": 1, "grad_norm": 1.0}], tmp_path / "curves.png")


def test_the_heat_is_drawn_where_the_map_is_hot_and_the_box_around_it(tmp_path, figures):
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 3] = maps[1, 3, 0] = 1  # top right, bottom left
    boxes = [[[0.75, 0.0, 1.0, 0.25]], []]
    path = plot_phrase_attention(Image.new("RGB", (80, 40)), ["one", "two"], maps, tmp_path / "heat.png", boxes)
    assert read(path)
    _, first, second, _ = figures[0].axes  # and the colour bar
    heats = [axes.images[-1].get_array() for axes in (first, second)]
    assert [heat.shape for heat in heats] == [(40, 80)] * 2
    hottest = [divmod(int(heat.argmax()), 80) for heat in heats]
    assert hottest[0][0] < 10 and hottest[0][1] >= 60 and hottest[1][0] >= 30 and hottest[1][1] < 20
    assert first.images[-1].get_clim() == second.images[-1].get_clim() == (1, 16)  # all mass in one of 16 cells
    (box,) = first.patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (59.5, -0.5, 20, 10)
    assert not second.patches


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "phrase", ["$5 or $x^2$ \\frac", "一只狗", "a\x00b\n\tc", "", "long " * 60, "unbreakable" * 30]
)
def test_any_text_makes_a_title(tmp_path, figures, phrase):
    plot_phrase_attention(Image.new("RGB", (32, 32)), [phrase], torch.ones(1, 2, 2), tmp_path / "title.png")
    lines = figures[0].axes[1].get_title().split("\n")
    assert len(lines) <= 3 and all(len(line) <= 28 for line in lines)


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
        for node in ast.parse(Path(visualize.__file__).read_text()).body
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
    assert [(box.get_width(), box.get_height()) for box in picture.patches[:3]] == [(40, 20), (60, 20), (40, 10)]
    assert [panel.get_title(loc="left") for panel in panels] == ["region 1", "region 2", "region 3", ""]
    assert [bar.get_width() for bar in panels[1].patches] == pytest.approx([0.2, 0.5, 0.3])
    assert [[bool(bar.get_hatch()) for bar in panel.patches] for panel in panels[:2]] == [
        [False, False],
        [False, True, False],
    ]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == texts[1]
    with pytest.raises(ValueError, match=r"as many as each other, but are 3, \[2, 3\], \[2, 3, 2\]"):
        plot_region_choices(Image.new("RGB", (8, 8)), boxes, texts[:2], probabilities, path)
