from itertools import chain

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.hard_negatives import (
    Choice,
    HardNegativeProbe,
    caption_choices,
    region_choices,
    text_choices,
)
from beta_clip_hf.evaluation.probes import run_probes
from beta_clip_hf.inference.embedder import Embedder
from evaluation.colours import ColourModel, ColourProcessor
from evaluation.probe_helpers import metrics_of


def rows_of(count):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    return [{"image": Image.fromarray(pixels[i]), "caption": f"image {i}"} for i in range(count)]


def choices_of(groups):
    return [list(map(Choice, image_groups)) for image_groups in groups]


def test_choices_of_rows():
    region = {"box": [0, 0, 9, 9], "text": "a red cube", "negatives": ["a blue cube", "a red ball"]}
    row = {"caption": "a", "hard_negatives": ["b", "c"], "regions": [region, {**region, "negatives": []}]}
    assert caption_choices(row) == [Choice(["a", "b", "c"])]
    assert caption_choices(dict(row, hard_negative_kinds=["shape", "colour"])) == [
        Choice(["a", "b", "c"], kinds=["shape", "colour"])
    ]
    assert region_choices(row) == [Choice(["a red cube", "a blue cube", "a red ball"], box=[0, 0, 9, 9])]
    choices = [{"text": "a", "negatives": ["b"], "subset": "swap"}, {"text": "c", "negatives": ["d", "e"]}]
    assert text_choices({"choices": choices}) == [Choice(["a", "b"], subset="swap"), Choice(["c", "d", "e"])]
    nothing = {"caption": "a", "regions": None, "hard_negative_kinds": []}
    assert caption_choices(nothing) == region_choices(nothing) == text_choices(nothing) == []


def test_both_scores_equal_a_loop_over_groups(tiny_model, tiny_processor):
    rows = rows_of(5)
    groups = []
    for i in range(5):
        groups.append([])
        for g in range(i % 3):
            groups[-1].append([f"{i} {g} {n}" for n in range(2 + (i + g) % 3)])
    hits = {"cls": [], "conditioned": []}
    for row, image_groups in zip(rows, groups, strict=True):
        pixels = tiny_processor(images=row["image"], return_tensors="pt")["pixel_values"]
        for group in image_groups:
            ids = tiny_processor(text=group, padding=True, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                image = tiny_model.get_image_features(pixels).pooler_output
                texts = tiny_model.get_text_features(ids).pooler_output
                conditioned = tiny_model.get_text_conditioned_image_features(pixels, ids)
            hits["cls"].append(int(torch.cosine_similarity(image, texts).argmax()) == 0)
            hits["conditioned"].append(int(torch.cosine_similarity(conditioned, texts).argmax()) == 0)
    embedder = Embedder(tiny_model, tiny_processor, batch_size=2)
    probe = HardNegativeProbe("foils", embedder, choices_of(groups))
    figures, counts = metrics_of(embedder, rows, [probe]), run_probes(embedder, rows, [probe]).counts
    assert counts == {"foils": 4}
    assert 0 < sum(hits["cls"] + hits["conditioned"]) < 8
    for score, expected in hits.items():
        assert figures[f"foils/{score}/accuracy"].value == pytest.approx(sum(expected) / 4)
    sizes = [len(group) for group in chain.from_iterable(groups)]
    assert figures["foils/cls/accuracy"].chance == pytest.approx(sum(1 / size for size in sizes) / 4)


def test_a_negative_that_repeats_the_true_text_is_a_tie():
    rows = [{"image": Image.new("RGB", (32, 32), "red"), "caption": "red"}]
    embedder = Embedder(ColourModel(), ColourProcessor())
    for group, expected in ((["red", "red", "blue"], 1 / 2), (["red", "blue"], 1), (["blue", "red"], 0)):
        figures = metrics_of(embedder, rows, [HardNegativeProbe("foils", embedder, choices_of([[group]]))])
        assert figures["foils/cls/accuracy"].value == expected


def test_a_pooler_that_leaks_the_text_is_at_chance():
    rows = [{"image": Image.new("RGB", (32, 32), "red"), "caption": "red"}]
    embedder = Embedder(ColourModel(), ColourProcessor())
    probe = HardNegativeProbe("foils", embedder, choices_of([[["red", "green", "blue"]]]))
    figures = metrics_of(embedder, rows, [probe])
    assert figures["foils/conditioned/accuracy"].value == pytest.approx(1 / 3)
    assert figures["foils/cls/accuracy"].value == 1


def test_each_group_is_asked_of_its_own_image():
    colours = ["red", "blue", "red"]
    rows = [{"image": Image.new("RGB", (32, 32), colour), "caption": colour} for colour in colours]
    embedder = Embedder(ColourModel(), ColourProcessor(), batch_size=3)
    groups = [[["red", "blue"]], [["blue", "red"], ["blue", "green"]], []]
    figures = metrics_of(embedder, rows, [HardNegativeProbe("foils", embedder, choices_of(groups))])
    assert figures["foils/cls/accuracy"].value == 1


def test_each_kind_has_figures_against_its_own_negatives():
    rows = [{"image": Image.new("RGB", (32, 32), "red"), "caption": "red"} for _ in range(3)]
    embedder = Embedder(ColourModel(), ColourProcessor())
    # "hard": the second text is as true as the first, or the first is wrong; "easy": plainly false.
    texts = [["red", "red", "blue"], ["blue", "green", "red"], ["red", "green", "blue"]]
    kinds = [["hard", "easy"], ["easy", "hard"], ["easy", "easy"]]
    choices = [[Choice(*arguments)] for arguments in zip(texts, kinds, strict=True)]
    figures = metrics_of(embedder, rows, [HardNegativeProbe("foils", embedder, choices)])
    assert figures["foils/cls/accuracy"].value == pytest.approx((1 / 2 + 0 + 1) / 3)
    hard, easy = figures["foils[hard]/cls/accuracy"], figures["foils[easy]/cls/accuracy"]
    assert (hard.count, hard.chance, hard.value) == (2, 0.5, pytest.approx((1 / 2 + 0) / 2))
    assert (easy.count, easy.chance) == (3, pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3))
    assert easy.value == pytest.approx((1 + 1 / 2 + 1) / 3)  # blue and green are equally far from a red image
    with pytest.raises(ValueError, match="foils must have a kind for each of the 2 negatives of 'red', or no kinds"):
        HardNegativeProbe("foils", embedder, [[Choice(["red", "red", "blue"], ["hard"])]])


def test_each_subset_has_figures_of_its_own():
    rows = [{"image": Image.new("RGB", (32, 32), "red"), "caption": "red"}]
    embedder = Embedder(ColourModel(), ColourProcessor())
    choices = [Choice(["red", "blue"], subset="a"), Choice(["blue", "red"], subset="b"), Choice(["red", "green"])]
    figures = metrics_of(embedder, rows, [HardNegativeProbe("foils", embedder, [choices])])
    accuracy = {name: figure.value for name, figure in figures.items() if "/cls/" in name}
    assert accuracy == {
        "foils/cls/accuracy": pytest.approx(2 / 3), "foils[a]/cls/accuracy": 1, "foils[b]/cls/accuracy": 0
    }  # fmt: skip


@pytest.mark.parametrize("squash", [True, False])
def test_region_scores_equal_a_loop_over_boxes(tiny_model, tiny_tokenizer, squash):
    """Pixels and shares, whatever the shape of the image; a box of which nothing is seen ties all of its texts."""
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32, squash=squash)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (4, 30, 60, 3), generator=generator, dtype=torch.uint8).numpy()
    rows, hits = [], []
    for i in range(4):
        boxes = [[16, 3, 40, 20], [20 + i, 0, 45, 30], [0, 0, 4, 30]][: 1 + i % 3]  # the crop sees 15..45 of the width
        groups = [[f"{i} {g} 0", f"{i} {g} 1", f"{i} {g} 2"] for g in range(len(boxes))]
        regions = [{"box": box, "text": g[0], "negatives": g[1:]} for box, g in zip(boxes, groups, strict=True)]
        image = Image.fromarray(pixels[i])
        rows.append({"image": image, "caption": f"image {i}", "regions": regions})
        pixel_values = processor(images=image, return_tensors="pt")["pixel_values"]
        for (x1, y1, x2, y2), group in zip(boxes, groups, strict=True):
            left, width = (0, 60) if squash else (15, 30)
            x1, x2 = ((min(max(x, left), left + width) - left) / width for x in (x1, x2))
            with torch.no_grad():
                region = tiny_model.get_region_features(pixel_values, torch.tensor([[x1, y1 / 30, x2, y2 / 30]]))
                ids = processor(text=group, padding=True, return_tensors="pt")["input_ids"]
                cosines = torch.cosine_similarity(region, tiny_model.get_text_features(ids).pooler_output)
            hits.append(1 / 3 if region.abs().max() == 0 else float(cosines.argmax() == 0))
    shares = [dict(row, box_format="xyxy_normalized") for row in rows]
    for row in shares:
        regions = []
        for region in row["regions"]:
            x1, y1, x2, y2 = region["box"]
            regions.append({**region, "box": [x1 / 60, y1 / 30, x2 / 60, y2 / 30]})
        row["regions"] = regions
    assert 0 < sum(hits) < len(hits) and (1 / 3 in hits) == (not squash)
    for rows_in_format in (rows, shares):
        figure = evaluate(tiny_model, processor, rows_in_format, batch_size=3)["figures"][
            "region_negatives/region/accuracy"
        ]
        assert figure["value"] == pytest.approx(sum(hits) / len(hits))
        assert figure["chance"] == pytest.approx(1 / 3)


def test_captions_take_the_long_path_and_regions_the_short_one(tiny_clip_dir, tiny_tokenizer):
    """With a long path that is the negative of the short one, every choice by whole captions turns round."""
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, use_long_text_path=True, use_pooler=False).eval()
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32, short_max_length=77)
    region = {"box": [0, 0, 30, 30], "text": "one", "negatives": ["two"]}
    rows = [dict(row, hard_negatives=["one"], regions=[region]) for row in rows_of(6)]
    before = evaluate(model, processor, rows)["figures"]
    with torch.no_grad():
        model.long_text_projection.weight.neg_()
    after = evaluate(model, processor, rows)["figures"]
    name = "hard_negatives/cls/accuracy"
    assert after[name]["value"] == pytest.approx(1 - before[name]["value"])
    assert after["region_negatives/cls/accuracy"] == before["region_negatives/cls/accuracy"]
    first, not_last = after["long/cls/image_to_text/R@1"]["value"], before["long/cls/image_to_text/R@5"]["value"]
    assert first == pytest.approx(1 - not_last)  # of six
