"""Names of metrics as values: composed in one place, and never taken apart again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


MEDIAN_RANK = "median_rank"


@dataclass(frozen=True)
class MetricName:
    """
    Holds the name of a metric in its parts.

    `str(name)` is the key of the metric in results.json, and in the result of
    [`beta_clip_hf.evaluation.evaluator.evaluate`].

    >>> str(MetricName("long", "cls", "R@1", direction="text_to_image"))
    'long/cls/text_to_image/R@1'
    >>> str(MetricName("phrases", "attention", "pointing", subset="noun", head=3))
    'phrases[noun]/attention[head 3]/pointing'
    """

    probe: str
    """What is measured: texts of retrieval ("long", "short"), "hard_negatives", "choices", "region_negatives",
    "phrases", "classes" or "boxes"."""
    score: str
    """What the ranking or the heat map is made of, such as "cls", "all_pairs" or "attention"."""
    metric: str
    """What is computed from the scores, such as "R@1", "accuracy" or "pointing"."""
    direction: str = ""
    """Direction of retrieval: "image_to_text" or "text_to_image"."""
    subset: str = ""
    """Kind of phrases or negatives, or subset of the benchmark, if the metric is about these alone. Of classes:
    the set of prompts, if it is not the main one."""
    head: int | None = None
    """Head of the pooler, if the score is that of a single head."""
    part: str = ""
    """Part of the benchmark; empty for the main part."""

    def __str__(self) -> str:
        probe = self.probe
        if self.subset:
            probe = f"{self.probe}[{self.subset}]"
        score = self.score
        if self.head is not None:
            score = f"{self.score}[head {self.head}]"
        words = (self.part, probe, score, self.direction, self.metric)
        return "/".join(word for word in words if word)

    @property
    def is_rank(self) -> bool:
        """Whether the metric is a rank. All others are shares in [0, 1]."""
        return self.metric == MEDIAN_RANK

    def to_json(self) -> dict[str, str | int]:
        """Returns the parts that are there, by name."""
        return {part: value for part, value in asdict(self).items() if value not in ("", None)}

    @classmethod
    def from_record(cls, key: str, record: Mapping[str, Any]) -> "MetricName":
        """
        Reads the name of a metric from its record in results.json.

        Args:
            key: Key of the metric, for the error message.
            record: Its record, with the parts of the name under `name`.

        Raises:
            ValueError: if the record has no name. Earlier versions did not write it.
        """
        if "name" not in record:
            raise ValueError(f"the record of {key} must have a name, but has none: evaluate that model again")
        return cls(**record["name"])
