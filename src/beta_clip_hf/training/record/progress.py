"""
The record of a run over all of its legs. A leg is what one process does between a start and an end.

Each checkpoint has the record in its manifest, so a leg that was killed counts up to its last checkpoint, from which
the next one goes on.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .run_identity import Change


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class RunProgress:
    """
    Holds what a run has done.

    Args:
        before: The metrics of the evaluation before the first step; `None` without one.
        earlier: The legs that have ended, each as [`leg`] returns it.
        changes: What the present leg does otherwise than the one before.
        first_step: The step with which the present leg began.
        images: Images that all processes have read for the steps of the present leg. The steps of a leg may differ:
            accumulation ends with an epoch.
    """

    before: Mapping[str, Any] | None = None
    earlier: Sequence[Mapping[str, Any]] = ()
    changes: Sequence[Change] = ()
    first_step: int = 0
    images: int = 0
    loss_sum: float = 0.0
    skipped_in_training: int = 0
    skipped_in_evaluation: int = 0
    _started: str = field(default_factory=_now)
    _start_time: float = field(default_factory=time.monotonic)
    _seconds: float | None = None

    @classmethod
    def resumed(cls, stored: Mapping[str, Any] | None, first_step: int, changes: Sequence[Change]) -> "RunProgress":
        """
        Begins a leg that continues a run.

        Args:
            stored: What the checkpoint has of [`to_json`]; `None` if it has none.
            first_step: The step of the checkpoint.
            changes: What this leg does otherwise.
        """
        stored = stored or {}
        earlier = list(stored.get("legs") or ())
        recorded = sum(leg["steps"] for leg in earlier)
        if recorded < first_step:
            # The checkpoint is of plain transformers or of an earlier version.
            earlier.insert(0, {"steps": first_step - recorded, "seconds": None})
        return cls(before=stored.get("before"), earlier=earlier, changes=changes, first_step=first_step)

    def restart_clock(self) -> None:
        """Counts the seconds of the present leg from now on."""
        self._started = _now()
        self._start_time = time.monotonic()
        self._seconds = None

    def stop_clock(self) -> None:
        """Ends the count of the seconds: what comes now is no training."""
        self._seconds = time.monotonic() - self._start_time

    def leg(self, step: int) -> dict[str, Any]:
        """Describes the present leg up to a step, ready for JSON."""
        steps = step - self.first_step
        seconds = self._seconds
        if seconds is None:
            seconds = time.monotonic() - self._start_time
        return {
            "started": self._started,
            "first_step": self.first_step,
            "steps": steps,
            "seconds": round(seconds, 4),
            "loss_sum": self.loss_sum,
            "images": self.images,
            "skipped": {"training": self.skipped_in_training, "evaluation": self.skipped_in_evaluation},
            "changes": [change._asdict() for change in self.changes],
        }

    def to_json(self, step: int) -> dict[str, Any]:
        """Returns the record up to a step, for the manifest of a checkpoint."""
        return {"before": self.before, "legs": self.legs(step)}

    def legs(self, step: int) -> list[dict[str, Any]]:
        """Returns all legs, the present one last."""
        return [*map(dict, self.earlier), self.leg(step)]

    def images_per_step(self, step: int) -> float | None:
        """Returns the images of a step on average over all legs, as far as they were counted; a whole number as int."""
        known = [leg for leg in self.legs(step) if leg.get("images") and leg["steps"]]
        if not known:
            return None
        mean = sum(leg["images"] for leg in known) / sum(leg["steps"] for leg in known)
        return int(mean) if mean == int(mean) else round(mean, 1)

    def skipped(self, step: int) -> dict[str, int]:
        """Returns the numbers of rows that were skipped in training and evaluation, over all legs."""
        counts = {"training": 0, "evaluation": 0}
        for leg in self.legs(step):
            for name in counts:
                counts[name] += (leg.get("skipped") or {}).get(name, 0)
        return counts

    def add_up(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """
        Returns the metrics of a training over all legs.

        Args:
            metrics: Those of the present leg, as the Trainer logs them. They are returned as they are without earlier
                legs.
            step: The step with which the training has ended.
        """
        totals = dict(metrics)
        known = [leg for leg in self.legs(step) if leg.get("seconds") is not None]
        if not self.earlier or len(known) == 1:
            return totals
        seconds = sum(leg["seconds"] for leg in known)
        steps = sum(leg["steps"] for leg in known)
        totals["train_runtime"] = round(seconds, 4)
        totals["train_samples_per_second"] = round(sum(leg["images"] for leg in known) / seconds, 3)
        totals["train_steps_per_second"] = round(steps / seconds, 3)
        totals["train_loss"] = sum(leg["loss_sum"] for leg in known) / max(steps, 1)
        return totals


__all__ = ["RunProgress"]
