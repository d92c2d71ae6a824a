"""Commands that were given no model take the small β-CLIP that ships, and say so."""

import json

import pytest
import torch
from PIL import Image

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.data.scenes import pretrained
from beta_clip_hf.demo.collection import open_collection
from beta_clip_hf.inference.look import look


pytestmark = pytest.mark.slow

NOTICE = (
    "no --model: using the small β-CLIP of generated scenes that ships with the package; it knows coloured shapes only"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with three scenes as photos."""
    (tmp_path / "photos").mkdir()
    for number, scene in enumerate(SceneDataset(3, seed=1, level="easy", image_size=128)):
        scene["image"].save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_show_alone_shows_something(folder, capsys, caplog):
    pytest.importorskip("matplotlib")
    assert main(["show", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == pretrained("beta_clip") and NOTICE in caplog.text
    with Image.open(found["pictures"][0]) as picture:
        assert picture.width > 500


def test_most_phrases_of_the_first_scenes_look_at_their_object():
    """What a newcomer sees first: the picture has to make the point."""
    model = BetaCLIPModel.from_pretrained(pretrained("beta_clip")).eval()
    processor = BetaCLIPProcessor.from_pretrained(pretrained("beta_clip"))
    hits = []
    for scene in SceneDataset(10, seed=7, level="easy", image_size=256):
        nouns = [phrase for phrase in scene["phrases"] if phrase["kind"] == "noun"]
        maps = look(model, processor, scene["image"], [noun["text"] for noun in nouns]).maps()
        for noun, map_YX in zip(nouns, maps, strict=True):
            row, column = divmod(int(torch.argmax(map_YX)), map_YX.shape[1])
            x, y = ((place + 0.5) * 256 / map_YX.shape[1] for place in (column, row))
            hits.append(any(left <= x < right and top <= y < bottom for left, top, right, bottom in noun["boxes"]))
    assert sum(hits) > 0.5 * len(hits), f"{sum(hits)} of {len(hits)}"


def test_a_new_index_takes_it_and_keeps_it(folder, capsys, caplog):
    pytest.importorskip("lancedb")
    assert main(["index", "photos", "--output", "photos.index"]) == 0
    assert NOTICE in caplog.text
    caplog.clear()
    assert main(["search", "photos.index", "a red circle", "--json"]) == 0
    # The index names its model: nothing is assumed.
    assert main(["index", "photos", "--out", "photos.index"]) == 0
    assert NOTICE not in caplog.text
    assert "3 images (0 new" in capsys.readouterr().out


def test_the_demo_takes_it_for_scenes(caplog):
    pytest.importorskip("lancedb")
    with open_collection(num_scenes=2, device="cpu") as collection:
        assert collection.index.table.info["model"] == pretrained("beta_clip")
        assert collection.index.table.stores_patches and len(collection.index) == 2
    assert NOTICE in caplog.text
