"""Metrics over the weight alpha: one panel per kind, one curve with its band per metric."""

import pytest
from PIL import Image

from beta_clip_hf.visualize.sweeps import SweepCurve, plot_sweep


pytestmark = pytest.mark.slow


pytest.importorskip("matplotlib")


def curve(label, *values):
    return SweepCurve(label, values, [value - 0.02 for value in values], [value + 0.02 for value in values])


def test_a_panel_has_a_line_and_a_band_for_each_curve(tmp_path, figures):
    panels = {
        "photos: long": [curve("CLS R@1", 0.2, 0.4, 0.6), curve("conditioned R@1", 0.3, 0.5, 0.4)],
        "photos: phrases": [curve("pointing", 0.6, 0.5, 0.4)],
    }
    path = plot_sweep([0, 0.5, 1], panels, tmp_path / "new" / "sweep.png")
    assert path == tmp_path / "new" / "sweep.png" and Image.open(path).width > 1000
    long, phrases = figures[0].axes
    assert [axes.get_title(loc="left") for axes in (long, phrases)] == list(panels)
    first, second = long.lines
    assert (first.get_label(), list(first.get_xdata())) == ("CLS R@1", [0, 0.5, 1])
    assert list(first.get_ydata()) == pytest.approx([20, 40, 60])
    # A print in grey tells them apart by their dashes.
    assert first.get_color() != second.get_color() and first.get_linestyle() != second.get_linestyle()
    low, high = long.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (pytest.approx(18), pytest.approx(62))


def test_tiles_without_a_panel_are_empty(tmp_path, figures):
    plot_sweep([0, 1], {f"task {number}": [curve("R@1", 0.1, 0.2)] for number in range(4)}, tmp_path / "sweep.png")
    assert [axes.axison for axes in figures[0].axes] == [True] * 4 + [False] * 2


def test_no_panel_is_refused(tmp_path):
    with pytest.raises(ValueError, match="panels must be at least one"):
        plot_sweep([0, 1], {}, tmp_path / "sweep.png")
