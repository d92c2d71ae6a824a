"""`evaluate.load` takes the metric from this file. Its code is in the package beta-clip-hf."""

from beta_clip_hf.evaluation.hub_metrics import PointingGame


__all__ = ["PointingGame"]
