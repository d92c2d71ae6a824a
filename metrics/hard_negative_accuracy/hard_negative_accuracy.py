"""For `evaluate.load`, which takes the class from this file; it is part of the package beta-clip-hf."""

from beta_clip_hf.evaluation.hub_metrics import HardNegativeAccuracy


__all__ = ["HardNegativeAccuracy"]
