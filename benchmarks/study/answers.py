"""Answers the questions from the results, in words and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from .analysis import OPEN, UNDECIDED, Comparison, Difference, Results, combined
from .formats import cell, signed, table, title
from .questions import LABELS, POINT_ATTENTION, Question


# Pointing falls if its mean over the seeds ends this far below its highest point.
FALL = 0.02
LONGEST_TABLE = 9
"""Rows of a table that is shown. A longer one is folded."""


@dataclass(frozen=True)
class Measured:
    """A comparison with its difference, if the results are there."""

    comparison: Comparison
    difference: Difference | None

    @property
    def verdict(self) -> str:
        """Returns whether the difference is as expected; empty if nothing is expected."""
        if self.difference is not None:
            return self.difference.verdict(self.comparison.expectation)
        return OPEN if self.comparison.expectation else ""

    @property
    def label(self) -> str:
        """Returns the two sides."""
        comparison = self.comparison
        if comparison.arm == comparison.other:
            first, second = (_score_of(metric) for metric in (comparison.metric, comparison.other_metric))
            return f"`{comparison.arm}`: {first} − {second}"
        return f"`{comparison.arm}` − `{comparison.other}`"

    @property
    def metric_label(self) -> str:
        """Returns the name of the metric."""
        comparison = self.comparison
        if comparison.arm == comparison.other:
            return f"{comparison.metric.split('/')[0]} R@1"
        return LABELS[comparison.metric]


def _score_of(metric: str) -> str:
    return metric.split("/")[1].replace("cls", "CLS").replace("_", " ")


def answered(question: Question, sets: Sequence[Results]) -> list[str]:
    """Returns a question with its answer and table for each start and level."""
    parts = [f"### {question.title}"]
    if question.note:
        parts.append(question.note)
    is_answered = False
    for results in sets:
        measured = [Measured(comparison, results.difference(comparison)) for comparison in question.comparisons]
        shown = [item for item in measured if item.difference is not None]
        if question.trend:
            parts += trend(question.trend, results)
        if shown:
            is_answered = True
            parts += answer(question, measured, title(results))
            parts.append(comparison_table(shown, results))
    if not is_answered:
        parts.append("**Open**: the runs that answer it are not there yet.")
    return parts


def answer(question: Question, measured: Sequence[Measured], heading: str) -> list[str]:
    """Returns the answer to a question in words: one line, or one for each pair of arms."""
    if question.mode != "each":
        verdicts = [item.verdict for item in measured if item.comparison.expectation]
        return [f"**{heading}: {combined(verdicts, question.mode)}.**"]
    pairs: dict[str, list[Measured]] = {}
    for item in measured:
        if item.difference is not None:
            pairs.setdefault(item.label, []).append(item)
    lines = [f"- {label}: {answer_of_pair(items)}" for label, items in pairs.items()]
    return [f"**{heading}.**", "\n".join(lines)]


def answer_of_pair(measured: Sequence[Measured]) -> str:
    """Returns in which metrics an arm is higher or lower than another one, and which stay without a decision."""
    kinds: dict[str, list[str]] = {"higher": [], "lower": [], "no difference": [], UNDECIDED: [], OPEN: []}
    for item in measured:
        assert item.difference is not None
        words = f"{item.metric_label} ({signed(item.difference.value)})"
        if item.verdict == OPEN:
            kinds[OPEN].append(words)
        elif item.difference.sign > 0:
            kinds["higher"].append(words)
        elif item.difference.sign < 0:
            kinds["lower"].append(words)
        elif item.difference.is_small:
            kinds["no difference"].append(words)
        else:
            kinds[UNDECIDED].append(words)
    parts = [f"**{kind}** in {', '.join(words)}" for kind, words in kinds.items() if words]
    return "; ".join(parts) + "."


def comparison_table(measured: Sequence[Measured], results: Results) -> str:
    """Formats the differences of a question."""
    rows = []
    for item in measured:
        comparison, difference = item.comparison, item.difference
        assert difference is not None
        interval = f"{signed(difference.value)} ({signed(difference.low)} … {signed(difference.high)})"
        if difference.sign:
            interval = f"**{interval}**"
        row = [item.label, item.metric_label]
        row.append(cell(results.spread(comparison.arm, comparison.metric)))
        row.append(cell(results.spread(comparison.other, comparison.other_metric)))
        by_seed = difference.by_seed
        row += [interval, f"{signed(min(by_seed))} … {signed(max(by_seed))} ({len(by_seed)})"]
        row.append(f"{comparison.expectation}: {item.verdict}" if comparison.expectation else "")
        rows.append(row)
    text = table(["", "metric", "first", "second", "difference", "seeds", "expected"], rows)
    if len(rows) <= LONGEST_TABLE:
        return text
    # Markdown inside of HTML needs the empty lines.
    return f'<details markdown="1"><summary>{len(rows)} differences</summary>\n\n{text}\n\n</details>'


def trend(arms: Sequence[str], results: Results) -> list[str]:
    """Returns a table of noun pointing by attention over the scenes, and where it falls."""
    rows = []
    falling = []
    scenes: list[int] = []
    for arm in arms:
        curve = results.curve(arm, POINT_ATTENTION)
        if not curve:
            continue
        scenes = scenes or [point[0] for point in curve]
        means = [spread.mean for _, spread in curve]
        if max(means) - means[-1] > FALL:
            falling.append(f"`{arm}` ({signed(means[-1] - max(means))})")
        # Arms with another contrast are measured after nearly the same scenes.
        rows.append([f"`{arm}`", *(cell(spread) for _, spread in curve)])
    if not rows:
        return []
    words = f"falls from its highest point in {', '.join(falling)}" if falling else "does not fall in any of these arms"
    header = ["noun pointing, attention", *(f"{number:,} scenes" for number in scenes)]
    return [f"**{title(results)}: pointing {words}.**", table(header, rows)]
