"""Tables of results."""

from beta_clip_hf.evaluation.metric_names import MetricName
from beta_clip_hf.evaluation.results import (
    Metric,
    format_side_by_side,
    format_table,
    metrics_to_json,
)


def result(value):
    """A result of one share and one rank."""
    metrics = [
        Metric(MetricName("long", "cls", "R@1", "text_to_image"), value, chance=0.25, low=0.0, high=0.625, count=4),
        Metric(MetricName("long", "cls", "median_rank", "text_to_image"), 2.0, chance=2.5, count=4),
    ]
    return {"protocol": "rows/v1", "counts": {"images": 4, "long_texts": 4}, "figures": metrics_to_json(metrics)}


def test_shares_are_in_per_cent_and_ranks_are_not():
    assert format_table("photos", result(0.5)).splitlines() == [
        "photos (rows/v1; images 4, long texts 4)",
        "                                    value  95 % interval  chance  n",
        "long/cls/text_to_image/R@1           50.0     0.0 – 62.5    25.0  4",
        "long/cls/text_to_image/median_rank    2.0                    2.5  4",
    ]


def test_models_side_by_side_each_show_their_best():
    key = "long/cls/text_to_image/R@1"
    other = {"figures": {key: {"value": 1.0, "chance": 0.25, "low": 0.875, "high": 1.0}}}
    models = {"CLIP": result(0.5), "β-CLIP": {"figures": result(0.75)["figures"] | {"more": other["figures"][key]}}}
    table = format_side_by_side(models, {"R@1": key, "best": [key, "more"], "more": "more", "none": "no"}, "photos")
    assert table.splitlines() == [
        "photos  chance         CLIP          β-CLIP",
        "R@1       25.0  50.0 (0–62)     75.0 (0–62)",
        "best      25.0  50.0 (0–62)  100.0 (88–100)",
        "more      25.0            –  100.0 (88–100)",
        "none         –            –               –",
    ]
