"""Curves of a run and of an evaluation: which panels there are, and what is in them."""

import builtins

import pytest

from beta_clip_hf.visualize import plot_recall_curves, plot_training_curves, style
from visualize.png_reader import read_png


pytestmark = pytest.mark.slow


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
    {
        "step": 2,
        "eval_i2t_r1": 0.1,
        "eval_t2i_r1": 0.2,
        "eval_photos_i2t_r10": 0.4,
        "eval_i2t_t2i_r5": 0.3,
        "eval_runtime": 1.0,
    },
    {"step": 2, "train_loss": 7.5, "train_runtime": 3.0},
]


def panels_of(figures):
    """The titles of the panels of the first figure."""
    return [axes.get_title(loc="left") for axes in figures[0].axes]


def values_by_label(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_curves_have_a_panel_for_each_kind_of_number(tmp_path, figures):
    path = plot_training_curves(LOG_HISTORY, tmp_path / "new" / "curves.png", data_names=["photos", "i2t"])
    assert path == tmp_path / "new" / "curves.png" and read_png(path)
    losses, recalls, rates = figures[0].axes
    assert values_by_label(losses) == {
        "total": [8.0, 7.0],
        "CLIP loss": [4.0, 3.0],
        "β-CAL loss": [4.0, 4.0],
    }
    assert values_by_label(recalls) == {
        "image to text R@1": [10.0],
        "text to image R@1": [20.0],
        "photos image to text R@10": [40.0],
        # A set may have any name.
        "i2t text to image R@5": [30.0],
    }
    assert [line.get_label() for line in rates.lines] == ["towers", "pooler"] and rates.get_yscale() == "log"


def test_without_names_of_sets_the_recalls_are_those_of_the_one_set(tmp_path, figures):
    plot_training_curves(LOG_HISTORY, tmp_path / "curves.png")
    assert values_by_label(figures[0].axes[1]) == {"image to text R@1": [10.0], "text to image R@1": [20.0]}


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
    assert read_png(plot_recall_curves(curves, tmp_path / "recall.png", chance_labels=["long/chance"]))
    to_image, to_text = figures[0].axes
    assert panels_of(figures) == ["text to image, R@k in %", "image to text, R@k in %"]
    assert values_by_label(to_image) == {"long/cls": [50, 80], "long/chance": [10, 50]}
    assert list(to_image.lines[0].get_xdata()) == [1, 5]
    # Both panels have one scale.
    assert to_image.get_ylim() == to_text.get_ylim() == (0, pytest.approx(94.5))
    assert to_image.lines[1].get_color() == style.FAINT


def test_without_matplotlib_the_error_names_it(tmp_path, monkeypatch):
    import_module = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        plot_training_curves(LOG_HISTORY, tmp_path / "curves.png")
