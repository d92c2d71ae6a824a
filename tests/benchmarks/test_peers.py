"""The comparison with other libraries: on equal weights they compute the same, and the table goes into a page."""

import importlib

import pytest
import torch


pytestmark = pytest.mark.slow

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {"projection_dim": 32, "text_config": TOWER, "vision_config": {**TOWER, "image_size": 32, "patch_size": 8}}


@pytest.fixture
def peers(project_dir, monkeypatch):
    """The module of the benchmark, with one preset, tiny."""
    monkeypatch.syspath_prepend(project_dir / "benchmarks")
    monkeypatch.setitem(importlib.import_module("training_step").PRESETS, "tiny", {"config": CONFIG})
    return importlib.import_module("peers")


@pytest.fixture
def data(peers, tmp_path):
    return peers.make_data("tiny", 4, 6, tmp_path)


def test_every_library_is_measured_or_named(peers, data):
    results = peers.measure(data, rounds=1)
    assert {*results["tasks"]["step"], *results["left_out"]} == set(peers.LIBRARIES)
    assert results["tasks"]["texts"].keys() == results["tasks"]["images"].keys() >= {peers.PACKAGE, "transformers"}
    flops = [found["flops"] for found in results["tasks"]["step"].values()]
    assert max(flops) < 2 * min(flops)
    table = peers.markdown(results)
    assert all(f"{name} is not installed." in table for name in results["left_out"])


def test_other_numbers_are_an_error(peers, data, monkeypatch):
    right = peers.transformers

    def wrong(data):
        library = right(data)
        texts = library["texts"]
        return library | {"texts": lambda: texts().flip(0)}

    monkeypatch.setitem(peers.LIBRARIES, "transformers", wrong)
    with pytest.raises(AssertionError, match="transformers, texts: "):
        peers.measure(data, rounds=1)


def test_a_step_of_the_package_is_that_of_transformers(peers, data):
    losses = {}
    for name in (peers.PACKAGE, "transformers"):
        step = peers.LIBRARIES[name](data)["step"]
        losses[name] = torch.stack([step() for _ in range(3)])
    # After two steps of both optimisers, too.
    torch.testing.assert_close(losses[peers.PACKAGE], losses["transformers"], rtol=1e-4, atol=0)
    assert losses["transformers"][0] != losses["transformers"][2]


def test_the_table_goes_into_its_place(project_dir, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(project_dir / "benchmarks")
    report = importlib.import_module("report")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers, quick -->\nold\n<!-- end of peers, quick -->\nafter\n")
    report.put_into_page(page, "peers, quick", "new\n")
    assert page.read_text() == "before\n<!-- peers, quick -->\n\nnew\n\n<!-- end of peers, quick -->\nafter\n"
    with pytest.raises(ValueError, match="must have the lines <!-- other --> and"):
        report.put_into_page(page, "other", "new")
