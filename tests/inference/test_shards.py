"""Work in shards: each is done once, and what is on the disk is not done again."""

import pytest
import torch

from beta_clip_hf.inference.processes import Processes
from beta_clip_hf.inference.shards import Shards, joined, split
from ddp_helpers import run_processes


pytestmark = pytest.mark.slow


def squares(done):
    """Work that notes which shards it was asked for: shard n keeps n rows of n²."""

    def work(numbers):
        for number in numbers:
            done.append(number)
            yield {"square": torch.full((number,), number**2), "number": torch.tensor([number])}

    return work


EXPECTED = {"square": torch.tensor([1, 4, 4, 9, 9, 9]), "number": torch.arange(4)}


def assert_is_expected(kept):
    assert kept.keys() == EXPECTED.keys()
    assert all(torch.equal(kept[name], EXPECTED[name]) for name in EXPECTED)


def test_shards_are_joined_in_order_and_done_again_without_a_folder():
    done = []
    for _ in range(2):
        assert_is_expected(Shards().run("squares", 4, squares(done)))
    assert done == [0, 1, 2, 3] * 2


def test_what_is_on_the_disk_is_not_done_again(tmp_path):
    done = []
    assert_is_expected(Shards(tmp_path / "new").run("squares", 4, squares(done)))
    assert_is_expected(Shards(tmp_path / "new").run("squares", 4, squares(done)))
    assert done == [0, 1, 2, 3]
    Shards(tmp_path / "new").run("others", 1, squares(done))
    assert done == [0, 1, 2, 3, 0]


def test_work_that_was_stopped_goes_on_where_it_was(tmp_path):
    done = []

    def stopped(numbers):
        for kept in squares(done)(numbers):
            if done[-1] == 2:
                raise KeyboardInterrupt
            yield kept

    with pytest.raises(KeyboardInterrupt):
        Shards(tmp_path).run("squares", 4, stopped)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"squares-0000{i}.safetensors" for i in (0, 1)]
    assert_is_expected(Shards(tmp_path).run("squares", 4, squares(done)))
    assert done == [0, 1, 2, 2, 3]


def in_a_process(rank, folder):
    processes, done = Processes(), []
    shards = Shards(folder, processes)
    first = shards.run("first", 4, squares(done))
    everywhere = shards.run("everywhere", 4, squares(done), everywhere=True)
    return done, first, everywhere, processes.broadcast(rank), processes.gather(rank)


def test_three_processes_share_the_work_and_go_on_with_what_is_left(tmp_path):
    Shards(tmp_path).run("first", 2, squares([]))  # shards 0 and 1 are there
    results = run_processes(in_a_process, tmp_path, world_size=3)
    assert [done for done, *_ in results] == [[2, 0, 3], [3, 1], [2]]
    for rank, (_, first, everywhere, rank_of_first, ranks) in enumerate(results):
        assert_is_expected(everywhere)
        assert rank_of_first == 0 and ranks == ([0, 1, 2] if rank == 0 else [])
        if rank:
            assert first == {}
        else:
            assert_is_expected(first)


def test_parts_need_not_have_every_name():
    parts = [{"a": torch.zeros(1)}, {}, {"a": torch.ones(2), "b": torch.zeros(1)}]
    assert {name: tensor.tolist() for name, tensor in joined(parts).items()} == {"a": [0, 1, 1], "b": [0]}
    assert joined([]) == {}
    assert split([1, 2, 3], 2) == [[1, 2], [3]] and split(range(0), 2) == []
