"""Bootstrap intervals: they cover what they should, and images are resampled whole."""

import pytest
import torch

from beta_clip_hf.evaluation import intervals
from beta_clip_hf.evaluation.intervals import bootstrap_interval, bootstrap_intervals
from evaluation import naive_metrics


def test_bootstrap_covers_the_normal_interval_and_repeats():
    values = (torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    low, high = bootstrap_interval(values, seed=1)
    half_width = 1.96 * float(values.std()) / 400**0.5
    assert low == pytest.approx(float(values.mean()) - half_width, abs=0.01)
    assert high == pytest.approx(float(values.mean()) + half_width, abs=0.01)
    assert (low, high) == bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_bootstrap_resamples_whole_clusters():
    values = (torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.5).double().repeat_interleave(9)
    clusters = torch.arange(100).repeat_interleave(9)
    width = {
        name: high - low
        for name, (low, high) in {
            "copies as independent": bootstrap_interval(values),
            "copies as clusters": bootstrap_interval(values, clusters),
            "one of each": bootstrap_interval(values[::9]),
        }.items()
    }
    assert width["copies as clusters"] == pytest.approx(width["one of each"])
    assert width["copies as independent"] < width["one of each"] / 2


def test_the_intervals_of_several_means_are_those_of_the_loop_over_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "NUM_RESAMPLES", 50)
    values_NI = torch.rand(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clusters = torch.arange(20) % 6
    draws = torch.randint(6, (50, 6), generator=torch.Generator().manual_seed(4)).tolist()
    expected = []
    for values in values_NI.tolist():
        means = torch.tensor(naive_metrics.paired_difference(values, clusters.tolist(), draws), dtype=torch.float64)
        expected.append(tuple(means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()))
    for drawn_at_a_time in (1, 60, 10_000):
        monkeypatch.setattr(intervals, "DRAWN_AT_A_TIME", drawn_at_a_time)
        found = bootstrap_intervals(values_NI, clusters, seed=4)
        assert len(set(found)) == 3
        for interval, expected_interval in zip(found, expected, strict=True):
            assert interval == pytest.approx(expected_interval, abs=1e-12)


def test_bootstrap_of_one_value_is_a_point():
    assert bootstrap_interval(torch.ones(5)) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_interval(torch.ones(0))


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        ([torch.nan, 1.0], None, "values must be finite"),
        ([torch.inf, 1.0], None, "values must be finite"),
        ([0.0, 1.0, 1.0], [0, 1], r"must both have the shape \(values,\), but have \(3,\), \(2,\)"),
        ([0.0, 1.0], [0, 1, 1], r"must both have the shape \(values,\), but have \(2,\), \(3,\)"),
        ([], None, "number of values must be at least 1"),
    ],
)
def test_bootstrap_refuses_what_has_no_mean(values, clusters, message):
    clusters = None if clusters is None else torch.tensor(clusters)
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(torch.tensor(values), clusters)
