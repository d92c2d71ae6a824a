"""How numbers, tables and headings of the page are written."""

from collections.abc import Sequence

from beta_clip_hf.visualize.tables import format_markdown_table

from .analysis import Results, Spread


TITLES = {
    ("finetune", "easy"): "Fine-tuning, easy scenes",
    ("scratch", "easy"): "From scratch, easy scenes",
    ("finetune", "medium"): "Fine-tuning, medium scenes",
    ("scratch", "medium"): "From scratch, medium scenes",
}


def percent(share: float | None, digits: int = 1) -> str:
    """Formats a share in per cent; a dash if there is none."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def signed(share: float) -> str:
    """Formats a difference of shares in points, with a real minus."""
    return f"{100 * share:+.1f}".replace("-", "−")


def cell(spread: Spread | None) -> str:
    """Formats a metric over the seeds: the mean, and the standard deviation if there are several."""
    if spread is None:
        return "–"
    if spread.deviation is None:
        return percent(spread.mean)
    return f"{percent(spread.mean)} ± {percent(spread.deviation)}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table."""
    return format_markdown_table(header, rows, is_padded=False)


def title(results: Results) -> str:
    """Returns the heading of a start and a level."""
    return TITLES[results.start, results.level]
