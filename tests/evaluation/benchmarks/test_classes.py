"""ImageNet-1k and ImageNet-V2, with names and templates from OpenAI's notebook."""

import json

import pytest

from beta_clip_hf.evaluation.benchmarks import load_benchmark
from evaluation.benchmarks.files import touch, write


NAMES = [f"class {number}" for number in range(1000)]
TEMPLATES = [f"photo {number} of a {{}}." for number in range(80)]
WNIDS = [f"n{2 * number:08d}" for number in range(1000)]


def notebook():
    def cell(kind, *lines):
        return {"cell_type": kind, "source": list(lines), "metadata": {}}

    template_lines = [f"    {template!r},\n" for template in TEMPLATES]
    return {
        "nbformat": 4,
        "cells": [
            cell("code", "! pip install ftfy\n", "imagenet = 1"),
            cell("markdown", "imagenet_classes = nothing"),
            cell("code", f"imagenet_classes = {json.dumps(NAMES)}"),
            cell("code", "imagenet_templates = [\n", *template_lines, "]\n", "\n", "print(1)"),
        ],
    }


@pytest.fixture
def imagenet(tmp_path):
    write(tmp_path / "imagenet" / "Prompt_Engineering_for_ImageNet.ipynb", notebook())
    return tmp_path


def make_v2(root, number):
    """Every class has the same images: its folder is a link."""
    touch(root / "one class", (f"{image}.jpeg" for image in range(number)))
    folder = root / "imagenetv2-matched-frequency-format-val"
    folder.mkdir(parents=True)
    for label in range(1000):
        (folder / str(label)).symlink_to(root / "one class")
    return folder


@pytest.mark.slow
def test_imagenet_v2_whole_and_in_part(imagenet):
    folder = make_v2(imagenet / "imagenet", 10)
    reading = load_benchmark("imagenet", imagenet)
    (part,) = reading.parts
    assert (part.name, part.kind, part.counts) == ("v2", "classes", {"images": 10000}) and not reading.is_subset
    assert part.class_names == tuple(NAMES) and part.templates == tuple(TEMPLATES)
    labels = {row["image"].split("/")[-2]: row["label"] for row in part.rows}
    assert labels == {str(label): label for label in range(1000)}

    (folder / "999").unlink()
    touch(folder / "999", (f"{image}.jpeg" for image in range(9)))
    with pytest.raises(
        ValueError, match=r"ImageNet-1k and V2 \(v2\) must be whole, but images must be 10,000, but are 9,999"
    ):
        load_benchmark("imagenet", imagenet)
    assert load_benchmark("imagenet", imagenet, allow_subset=True).subset_note == "v2: 9,999 instead of 10,000 images"
    (folder / "cats").mkdir()
    with pytest.raises(ValueError, match="must be named by their label, 0 to 999, but one is 'cats'"):
        load_benchmark("imagenet", imagenet, allow_subset=True)


def test_labels_of_imagenet_1k_are_the_places_of_all_thousand_folders(imagenet):
    root = imagenet / "imagenet" / "val"
    for wnid in WNIDS:
        (root / wnid).mkdir(parents=True)
    touch(root, [f"{WNIDS[3]}/ILSVRC2012_val_00000001.JPEG", f"{WNIDS[999]}/ILSVRC2012_val_00000002.JPEG"])
    write(root / WNIDS[3] / "notes.txt", "no image")
    with pytest.raises(ValueError, match=r"\(1k\) must be whole, but images must be 50,000, but are 2\."):
        load_benchmark("imagenet", imagenet)
    (part,) = load_benchmark("imagenet", imagenet, allow_subset=True).parts
    assert [(row["image"].rpartition("/")[2][-8:], row["label"]) for row in part.rows] == [
        ("001.JPEG", 3), ("002.JPEG", 999)
    ]  # fmt: skip
    (root / WNIDS[0]).rmdir()  # then every label would be one too small
    with pytest.raises(ValueError, match=r"must have 1000 folders, one per class, empty or not, .* but has 999"):
        load_benchmark("imagenet", imagenet, allow_subset=True)


def test_names_and_templates_are_needed(imagenet):
    make_v2(imagenet / "imagenet", 1)
    file = imagenet / "imagenet" / "Prompt_Engineering_for_ImageNet.ipynb"
    write(file, {"cells": notebook()["cells"][:3]})
    with pytest.raises(ValueError, match="must assign imagenet_templates, but does not"):
        load_benchmark("imagenet", imagenet, allow_subset=True)
    file.unlink()
    with pytest.raises(ValueError, match=r"must hold Prompt_Engineering_for_ImageNet\.ipynb or"):
        load_benchmark("imagenet", imagenet, allow_subset=True)
    write(imagenet / "imagenet" / "classnames.json", {"classnames": NAMES[:-1], "templates": TEMPLATES})
    with pytest.raises(ValueError, match="classes must be 1,000, but are 999"):
        load_benchmark("imagenet", imagenet)


def test_the_real_names(shared_dir, imagenet):
    make_v2(imagenet / "imagenet", 1)
    file = shared_dir / "data" / "text" / "imagenet_openai_classnames_templates.json"
    (imagenet / "imagenet" / "Prompt_Engineering_for_ImageNet.ipynb").unlink()
    (imagenet / "imagenet" / file.name).symlink_to(file)
    part = load_benchmark("imagenet", imagenet, allow_subset=True).parts[0]
    assert part.subset_note == "1,000 instead of 10,000 images", "all names and templates are there"
    assert part.class_names[0] == "tench" and all("{}" in template for template in part.templates)
