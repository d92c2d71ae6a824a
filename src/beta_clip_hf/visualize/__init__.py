"""Pictures as PNG files: the curves of a run, where each phrase looks, what regions are taken for."""

from .attention import plot_phrase_attention
from .curves import plot_recall_curves, plot_training_curves
from .regions import plot_region_choices, plot_region_scores
from .style import COLOURS, FAINT, GRID, INK


__all__ = [
    "COLOURS",
    "FAINT",
    "GRID",
    "INK",
    "plot_phrase_attention",
    "plot_recall_curves",
    "plot_region_choices",
    "plot_region_scores",
    "plot_training_curves",
]
