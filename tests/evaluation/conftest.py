"""A few photos with captions and phrases."""

import json

import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    """Three images and their rows in the layout of the task."""
    rows = []
    for index, (size, colour) in enumerate([((60, 40), "red"), ((40, 60), "green"), ((50, 50), "blue")]):
        Image.new("RGB", size, colour).save(tmp_path / f"{index}.png")
        phrases = [{"text": f"the {colour} part", "boxes": [[10, 10, 30, 30]], "kind": "human"}, {"text": "no box"}]
        captions = [f"A {colour} image.", f"All is {colour}."]
        rows.append({"image": f"{index}.png", "captions": captions, "phrases": phrases})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path
