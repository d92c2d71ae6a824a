"""Writes docs/study.md and its plots from the results alone, identically each time."""

import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from beta_clip_hf.files import write_text

from .analysis import MARGIN, WANTED_SEEDS, Results
from .answers import answered
from .arms import ARMS
from .ceilings import ceilings_path
from .formats import TITLES, cell, percent, table, title
from .plots import plot_arms, plot_curves
from .questions import LABELS, LONG, LONG_ALL, QUESTIONS, SHORT, SHORT_ALL, SUMMARY


PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "study.md"
TEMPLATE = Path(__file__).parent / "template.md"


def read_all(folder: Path) -> list[Results]:
    """Reads the results of all starts and levels that have some."""
    found = []
    for start, level in TITLES:
        results = Results.read(folder / f"{start}_{level}", start, level)
        if results.records:
            found.append(results)
    return found


def read_ceilings(level: str) -> dict[str, Any] | None:
    """Returns the ceilings of a level, if they have been computed."""
    path = ceilings_path(level)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_report(results_folder: Path, page: Path) -> Path:
    """
    Writes the page, and its plots into `images` beside it.

    Args:
        results_folder: Folder with a folder of results for each start and level.
        page: Markdown file to write.
    """
    sets = read_all(results_folder)
    for results in sets:
        for name, plot in (("curves", plot_curves), ("arms", plot_arms)):
            plot(results, page.parent / "images" / image_name(results, name))
    return write_text(page, page_text(sets))


def image_name(results: Results, plot: str) -> str:
    """Returns the file name of a plot."""
    return f"study_{results.start}_{results.level}_{plot}.png"


def page_text(sets: Sequence[Results]) -> str:
    """Returns the whole page."""
    results_parts: list[str] = []
    cost_parts: list[str] = []
    arms: set[str] = set()
    for results in sets:
        arms |= results.records.keys()
        results_parts += summary(results)
        cost_parts += [f"**{title(results)}.** {environment_line(results)}", cost_table(results)]
    question_parts: list[str] = []
    for question in QUESTIONS:
        question_parts += answered(question, sets)
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        num_arms=len(arms),
        num_runs=sum(len(results.all_records()) for results in sets),
        wanted_seeds=WANTED_SEEDS,
        margin=percent(MARGIN, 0),
        results="\n\n".join(results_parts),
        questions="\n\n".join(question_parts),
        costs="\n\n".join(cost_parts),
        limits="\n".join(limits(sets)),
    )


def summary(results: Results) -> list[str]:
    """Returns the heading, the table and the plots of a start and a level."""
    header = ["", "seeds", *(LABELS[metric] for metric in SUMMARY)]
    rows = [["chance", "", *(percent(results.chance(metric)) for metric in SUMMARY)]]
    ceilings = read_ceilings(results.level)
    if ceilings is not None:
        rows.append(["best possible", "", *(percent(_ceiling(ceilings, metric)) for metric in SUMMARY)])
    for arm, records in results.records.items():
        rows.append([f"`{arm}`", str(len(records)), *(cell(results.spread(arm, metric)) for metric in SUMMARY)])
    described = [f"`{arm}`: {ARMS[arm].description}" for arm in results.records]
    parts = [f"### {title(results)}", f"![Arms side by side: {title(results)}](images/{image_name(results, 'arms')})"]
    parts.append(
        "A dot is the mean over the seeds, its bar their range. The blue line is plain CLIP, the dashed line the base."
    )
    parts.append(f"![Curves over the scenes of training: {title(results)}](images/{image_name(results, 'curves')})")
    parts.append(
        "Mean over the seeds; the shade is their range. A dotted line is chance, where it lies close to the curves."
    )
    parts.append(table(header, rows))
    note = "± is the standard deviation over the seeds."
    if ceilings is not None:
        note += (
            " *Best possible* is the R@1 of a model that knows exactly what is true: some captions are true of several "
            "of the 300 scenes, and then it has to guess."
        )
    return [*parts, note, f"The arms. {'; '.join(described)}."]


def _ceiling(ceilings: dict[str, Any], metric: str) -> float | None:
    if metric in (LONG, LONG_ALL):
        return ceilings["long"]["text_to_image"]
    if metric in (SHORT, SHORT_ALL):
        return ceilings["short"]["text_to_image"]
    return None


def environment_line(results: Results) -> str:
    """Tells what the runs were made with."""
    environments = set()
    commits = set()
    for record in results.all_records():
        place = record["environment"]
        environments.add(f"{place['hardware']}, torch {place['torch']}, transformers {place['transformers']}")
        commits.add(record["commit"])
    return f"{'; '.join(sorted(environments))}. Commits: {', '.join(sorted(commits))}."


def cost_table(results: Results) -> str:
    """Formats seconds, memory and tokens of each arm, means over the seeds."""
    rows = []
    plain = _mean_cost(results, "plain", "training_cpu_seconds")
    for arm in results.records:
        seconds = _mean_cost(results, arm, "training_cpu_seconds")
        if seconds is None:
            continue
        ratio = "–" if plain is None else f"{seconds / plain:.1f}"
        memory, tokens, texts = (_mean_cost(results, arm, name) for name in ("peak_mib", "tokens", "texts"))
        wall = _mean_cost(results, arm, "training_seconds")
        assert memory is not None and tokens is not None and texts is not None and wall is not None
        row = [f"`{arm}`", f"{seconds:,.0f}", ratio, f"{wall:,.0f}", f"{memory:,.0f}"]
        rows.append([*row, f"{tokens / 1e6:.2f}", f"{texts / 1e3:,.0f}"])
    header = ["", "CPU seconds", "× plain", "seconds", "peak MiB", "million tokens", "thousand texts"]
    return table(header, rows)


def _mean_cost(results: Results, arm: str, name: str) -> float | None:
    costs = [record["cost"][name] for record in results.records.get(arm, {}).values() if name in record["cost"]]
    return sum(costs) / len(costs) if costs else None


def limits(sets: Sequence[Results]) -> list[str]:
    """Returns the lines about results that are missing."""
    present = {(results.start, results.level) for results in sets}
    missing = [name for key, name in TITLES.items() if key not in present]
    few = []
    for results in sets:
        for arm, records in results.records.items():
            if ARMS[arm].is_trained and len(records) < WANTED_SEEDS:
                few.append(f"`{arm}` ({title(results).lower()}: {len(records)})")
    lines = []
    if missing:
        lines.append(f"- There are no results yet: {'; '.join(missing)}.")
    if few:
        lines.append(f"- These arms have fewer than {WANTED_SEEDS} seeds so far: {', '.join(few)}.")
    return lines
