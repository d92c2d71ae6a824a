"""A folder of photos that are easily told apart, and an embedder."""

from pathlib import Path

import pytest
from PIL import Image


COLOURS = ("red", "green", "blue", "yellow", "black", "white")


@pytest.fixture(scope="session", autouse=True)
def lancedb():
    return pytest.importorskip("lancedb")


@pytest.fixture
def embedder(checkpoint):
    from beta_clip_hf.search.index import load_embedder

    return load_embedder(checkpoint, device="cpu", batch_size=2)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six photos, one in a folder below, of two sizes; and files that are not to be looked at."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    for number, colour in enumerate(COLOURS):
        subfolder = folder / "below" if number == 5 else folder
        image = Image.new("RGB", (40, 60) if number % 2 else (60, 40), colour)
        image.paste("orange", (0, 0, 8 + 4 * number, 20))
        image.save(subfolder / f"{number}.png")
    Image.new("RGB", (8, 8)).save(folder / ".thumbnails" / "0.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def index(tmp_path, embedder, photos):
    """An index of the six photos."""
    from beta_clip_hf.search.index import PhotoIndex

    index = PhotoIndex.create(tmp_path / "photos.index", embedder)
    index.add(photos)
    return index
