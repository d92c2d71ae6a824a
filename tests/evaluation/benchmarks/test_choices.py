"""SugarCrepe and VALSE."""

import json
from itertools import chain

import pytest

from beta_clip_hf.evaluation.benchmarks import load_benchmark
from beta_clip_hf.evaluation.benchmarks.choices import SUGARCREPE, VALSE, VALSE_COUNTS
from evaluation.benchmarks.files import touch, write


def foil(image, number, **fields):
    return {"filename": image, "caption": f"A cat {number}.", "negative_caption": f"A dog {number}.", **fields}


def test_sugarcrepe(tmp_path):
    for subset in SUGARCREPE:
        write(tmp_path / "sugarcrepe" / "data" / f"{subset}.json", {"0": foil("1.jpg", 0), "7": foil("2.jpg", 7)})
    touch(tmp_path / "coco" / "val2017", ["1.jpg", "2.jpg"])
    with pytest.raises(
        ValueError, match=r"choices\[add_att\] must be 692, but are 2; choices\[add_obj\] must be 2,062"
    ):
        load_benchmark("sugarcrepe", tmp_path)
    (part,) = load_benchmark("sugarcrepe", tmp_path, allow_subset=True).parts
    assert len(part.rows) == 2 and part.counts["choices"] == 14 and part.kind == "choices"
    assert part.rows[1]["image"] == str(tmp_path / "coco" / "val2017" / "2.jpg")
    expected = {"text": "A cat 7.", "negatives": ["A dog 7."], "subset": "add_att", "id": "add_att:7"}
    assert part.rows[1]["choices"][0] == expected
    (tmp_path / "coco" / "val2017" / "1.jpg").unlink()
    (tmp_path / "sugarcrepe" / "data" / "swap_obj.json").unlink()
    with pytest.raises(ValueError) as refusal:
        load_benchmark("sugarcrepe", tmp_path)
    for words in ("1 files are not there (swap_obj.json)", "1 of 2 images are not there (val2017/1.jpg"):
        assert words in str(refusal.value)
    part = load_benchmark("sugarcrepe", tmp_path, allow_subset=True).parts[0]
    assert part.counts["choices"] == 6 and part.missing == ("swap_obj.json", "val2017/1.jpg")
    assert part.subset_note.startswith("1 of 2 images, 2 instead of 692 choices[add_att]")


@pytest.mark.slow
def test_the_real_sugarcrepe(shared_dir, tmp_path):
    source = shared_dir / "data" / "benchmarks" / "sugarcrepe"
    (tmp_path / "sugarcrepe").symlink_to(source)
    for file in source.glob("*.json"):
        records = json.loads(file.read_text("utf-8")).values()
        touch(tmp_path / "coco" / "val2017", {record["filename"] for record in records})
    reading = load_benchmark("sugarcrepe", tmp_path)
    (part,) = reading.parts
    assert not reading.is_subset and part.counts["choices"] == 7511 == sum(SUGARCREPE.values())
    choices = list(chain.from_iterable(row["choices"] for row in part.rows))
    assert len({choice["id"] for choice in choices}) == 7511
    assert {len(choice["negatives"]) for choice in choices} == {1}


def example(image, dataset, votes=3):
    mturk = {"foil": 3 - votes, "caption": votes, "other": 0}
    return {"dataset": dataset, "image_file": image, "caption": "A man.", "foil": "No man.", "mturk": mturk}


PLACES = {
    "existence": ("v7w_2371495.jpg", "visual7w", "visual7w"),
    "plurals": ("000000534827.jpg", "coco2017", "coco/val2017"),
    "relations": ("000000138979.jpg", "coco_2017", "coco/val2017"),
    "actant-swap": ("gnawing_178.jpg", "SWiG", "valse/images_512"),
    "coreference-standard": ("COCO_train2014_000000308265.jpg", "VisDial_v1.0", "coco/train2014"),
    "coreference-hard": ("VisualDialog_val2018_000000321392.jpg", "VisDial_v1.0", "VisualDialog_val2018"),
    "foil-it": ("COCO_val2014_000000567863.jpg", "FOIL dataset", "coco/val2014"),
}


@pytest.fixture
def valse(tmp_path):
    """Of each file one example that all annotators confirm and one that only one of them does."""
    for subset in VALSE:
        image, dataset, folder = PLACES.get(subset, PLACES["existence"])
        examples = {"a": example(image, dataset), "b": example(image, dataset, votes=1)}
        write(tmp_path / "valse" / "data" / f"{subset}.json", examples)
        touch(tmp_path / folder, [image])
    return tmp_path


def test_valse_finds_the_images_of_five_data_sets(valse):
    (part,) = load_benchmark("valse", valse, allow_subset=True).parts
    assert part.counts["choices"] == 11 and not part.missing
    found = {}
    for row in part.rows:
        found |= {choice["subset"]: row["image"] for choice in row["choices"]}
    assert {found[subset] for subset in PLACES} == {str(valse / folder / image) for image, _, folder in PLACES.values()}
    assert part.rows[0]["choices"][0] == {
        "text": "A man.", "negatives": ["No man."], "subset": "existence", "id": "existence:a"
    }  # fmt: skip


def test_valse_counts_valid_examples_by_phenomenon(valse):
    with pytest.raises(ValueError) as refusal:
        load_benchmark("valse", valse)
    assert "counting must be 2,459, but are 3; relations must be 535, but are 1" in str(refusal.value)
    assert sum(VALSE_COUNTS.values()) == 6795 and set(VALSE.values()) - set(VALSE_COUNTS) == {"foil-it"}
    whole = {subset: 0 for subset in VALSE}
    for subset, phenomenon in VALSE.items():
        others = [other for other in VALSE if VALSE[other] == phenomenon]
        whole[subset] = VALSE_COUNTS.get(phenomenon, len(others)) // len(others)
    whole["actant-swap"] += VALSE_COUNTS["actions"] % 2
    whole["counting-hard"] += VALSE_COUNTS["counting"] % 3
    for subset, number in whole.items():
        image, dataset, _ = PLACES.get(subset, PLACES["existence"])
        write(
            valse / "valse" / "data" / f"{subset}.json",
            {str(n): example(image, dataset, votes=2) for n in range(number)},
        )
    reading = load_benchmark("valse", valse)
    assert not reading.is_subset and reading.parts[0].counts["choices"] == 6795 + whole["foil-it"]

    (valse / "valse" / "data" / "foil-it.json").unlink()  # the one whose count is not published
    with pytest.raises(ValueError, match=r"whole, but 1 files are not there \(foil-it\.json\)"):
        load_benchmark("valse", valse)
    without = load_benchmark("valse", valse, allow_subset=True)
    assert without.is_subset and without.subset_note == "without foil-it.json"
