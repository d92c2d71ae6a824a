"""Names of metrics: one text for each name, and all parts of it in the record."""

import pytest

from beta_clip_hf.evaluation.metric_names import MetricName
from beta_clip_hf.evaluation.results import Metric, metrics_to_json


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (MetricName("long", "cls", "R@1", direction="image_to_text"), "long/cls/image_to_text/R@1"),
        (MetricName("long", "rerank@16", "R@5", "text_to_image", part="1k"), "1k/long/rerank@16/text_to_image/R@5"),
        (MetricName("choices", "conditioned", "accuracy", subset="swap_obj"), "choices[swap_obj]/conditioned/accuracy"),
        (MetricName("phrases", "attention", "pointing", head=0), "phrases/attention[head 0]/pointing"),
        (MetricName("boxes", "region", "top5"), "boxes/region/top5"),
    ],
)
def test_a_name_is_written_in_one_way_and_read_from_its_parts(name, text):
    assert str(name) == text
    (record,) = metrics_to_json([Metric(name, 0.5)]).values()
    assert MetricName.from_record(text, record) == name
    assert not {"", None} & set(record["name"].values())


def test_only_ranks_are_no_shares():
    assert MetricName("long", "cls", "median_rank", "text_to_image").is_rank
    assert not MetricName("long", "cls", "R@1", "text_to_image").is_rank


def test_a_record_without_its_name_is_refused():
    with pytest.raises(ValueError, match="the record of long/cls/R@1 must have a name, but has none: evaluate"):
        MetricName.from_record("long/cls/R@1", {"value": 0.5})
