"""A stream of tars, split over processes and workers: every row is read by one of them, and a resumed run goes on."""

from collections import Counter
from itertools import chain, islice, product

import pytest
from torch.utils.data import DataLoader

from beta_clip_hf.data.readers import load_rows
from beta_clip_hf.training.streams import EndlessBatches
from data.formats.test_webdataset import ids, pair, write_tar


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]

# Numbers of rows of the tars: uneven ones, one of them empty; fewer than most readers; a single one.
LAYOUTS = {"uneven": (1, 9, 0, 2, 5, 3), "few": (7, 4), "one": (11,)}
PLACES = list(product((1, 2, 3, 4), (0, 2)))


@pytest.fixture(scope="module", params=LAYOUTS)
def shards(request, tmp_path_factory):
    """A folder of tars, and the number of their rows."""
    folder = tmp_path_factory.mktemp(request.param)
    first = 0
    for number, size in enumerate(LAYOUTS[request.param]):
        files = {}
        for row in range(first, first + size):
            files |= pair(row)
        write_tar(folder / f"train-{number}.tar", files)
        first += size
    return folder, first


def start_process(monkeypatch, rank, processes):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("RANK", str(rank))


def names(rows):
    return [row["id"] for row in rows]


def endless_batches(folder, workers, batch_size):
    """Batches as the Trainer makes them of a stream."""
    rows = load_rows(folder, shuffle_buffer=4, seed=3)
    loader = DataLoader(rows, batch_size=batch_size, num_workers=workers, collate_fn=names, drop_last=True)
    return DataLoader(EndlessBatches(loader), batch_size=None)


@pytest.mark.parametrize(("processes", "workers"), PLACES)
@pytest.mark.parametrize("shuffle_buffer", [0, 3])
def test_each_row_is_read_once(processes, workers, shuffle_buffer, shards, monkeypatch):
    folder, count = shards
    for epoch in (0, 1):
        seen = Counter()
        for rank in range(processes):
            start_process(monkeypatch, rank, processes)
            rows = load_rows(folder, shuffle_buffer=shuffle_buffer)
            rows.set_epoch(epoch)
            seen.update(ids(DataLoader(rows, num_workers=workers, batch_size=None)))
        assert seen == Counter(range(count))


@pytest.mark.parametrize(("processes", "workers"), PLACES)
def test_a_resumed_run_reads_what_the_other_would_have_read(processes, workers, shards, monkeypatch):
    folder, _ = shards
    steps, done = 9, 4
    for rank in range(processes):
        start_process(monkeypatch, rank, processes)
        whole = list(islice(endless_batches(folder, workers, 1), steps))
        # The Trainer passes over the batches of the steps before.
        resumed = list(islice(endless_batches(folder, workers, 1), done, steps))
        assert resumed == whole[done:]
        assert len(whole) == steps


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)])
def test_a_pass_leaves_out_less_than_a_batch_of_each_reader(processes, workers, shards, monkeypatch):
    folder, count = shards
    batch_size = 2
    seen = Counter()
    for rank in range(processes):
        start_process(monkeypatch, rank, processes)
        rows = load_rows(folder, shuffle_buffer=4, seed=3)
        loader = DataLoader(rows, batch_size=batch_size, num_workers=workers, collate_fn=names, drop_last=True)
        seen.update(chain.from_iterable(loader))
    readers = processes * max(workers, 1)
    assert set(seen.values()) <= {1}
    assert count - len(seen) <= readers * (batch_size - 1)
