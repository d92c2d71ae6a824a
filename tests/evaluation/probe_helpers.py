"""Metrics of single probes."""

from beta_clip_hf.evaluation.probes import run_probes


def metrics_of(embedder, rows, probes):
    """The metrics of a pass over the images, by their names."""
    return {str(metric.name): metric for metric in run_probes(embedder, rows, probes).metrics}
