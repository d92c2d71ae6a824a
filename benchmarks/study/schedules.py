"""How long the arms train, and on which scenes: the same for all arms of a start and a level."""

from dataclasses import dataclass, replace


TEST_SEED = 4242
"""Seed of the test scenes that the report is about. Nothing is trained or tuned on them."""
TUNING_TEST_SEED = 7
"""Seed of the test scenes to tune a recipe on, together with training seeds from 100 on."""
TEST_SCENES = 300
IMAGE_SIZE = 64
LEVELS = ("easy", "medium")
# Seeds of the training scenes are this one plus the seed of the run. No test seed is near.
_FIRST_TRAINING_SEED = {"scratch": 10_000, "finetune": 20_000}


@dataclass(frozen=True)
class Schedule:
    """How long a start and a level train, and with which optimiser."""

    batch_size: int
    points: tuple[int, ...]
    """Numbers of scenes after which the model is measured. The last one is the end."""
    learning_rate: float
    warmup: float
    """Share of all steps over which the learning rate of the towers rises."""
    learning_rate_end: float = 1e-5
    pooler_learning_rate: float = 1e-3
    pooler_learning_rate_end: float = 1e-5

    def steps_of_points(self, contrast: int) -> tuple[int, ...]:
        """
        Returns the optimiser steps after which the model is measured.

        Args:
            contrast: Images of one step; 0 stands for the batch size.
        """
        images = contrast or self.batch_size
        # A contrast that does not divide the scenes sees a few less, and never more.
        return tuple(max(1, scenes // images) for scenes in self.points)

    def shortened(self, points: tuple[int, ...]) -> "Schedule":
        """Returns this schedule with other points."""
        return replace(self, points=points)


_FINE_TUNING = Schedule(batch_size=32, points=(3_200, 6_400, 12_800), learning_rate=5e-4, warmup=0.05)
_EASY = Schedule(batch_size=64, points=(10_000, 20_000, 40_000, 80_000, 160_000), learning_rate=1e-3, warmup=0.1)
# On medium scenes plain CLIP knows next to nothing after 160,000.
_MEDIUM = _EASY.shortened((40_000, 80_000, 160_000, 320_000, 640_000))

SCHEDULES = {
    ("finetune", "easy"): _FINE_TUNING,
    ("finetune", "medium"): _FINE_TUNING,
    ("scratch", "easy"): _EASY,
    ("scratch", "medium"): _MEDIUM,
}
"""(start, level) → schedule."""


def training_seed(start: str, seed: int) -> int:
    """Returns the seed of the training scenes of a run."""
    return _FIRST_TRAINING_SEED[start] + seed
