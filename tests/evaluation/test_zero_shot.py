import pytest
import torch
from PIL import Image, ImageDraw

from beta_clip_hf import BetaCLIPProcessor
from beta_clip_hf.evaluation.evaluator import evaluate
from beta_clip_hf.evaluation.zero_shot import PLAIN_TEMPLATES, Classes, class_embeds
from beta_clip_hf.inference.embedder import Embedder
from evaluation.colours import ColourModel, ColourProcessor
from evaluation.naive_metrics import recall_at_k


COLOURS = Classes(["red", "green", "blue"], ["{}"])
NAMES = ["cat", "dog", "wolf", "dog", "a very small bird", "ox", "cow"]  # one name stands for two classes
CLASSES = Classes(NAMES, ["a photo of a {}.", "the {}, drawn: {}", "{}"])


def image(painted=(), size=(64, 64)):
    """Black, with rectangles of colours."""
    picture = Image.new("RGB", size)
    for colour, (x1, y1, x2, y2) in painted:
        ImageDraw.Draw(picture).rectangle((x1, y1, x2 - 1, y2 - 1), fill={"green": "lime"}.get(colour, colour))
    return picture


def classify(rows, classes=COLOURS, batch_size=2):
    measured = evaluate(ColourModel(), ColourProcessor(), rows, classes=classes, batch_size=batch_size)
    return {name: figure for name, figure in measured["figures"].items()}, measured["counts"]


def whole(colour, label, **extra):
    return {"image": image([(colour, (0, 0, 64, 64))]), "label": label, **extra}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_planted_colours_are_classified(batch_size):
    rows = [whole("red", 0), whole("green", 1), whole("blue", 0), {"image": image()}, whole("blue", 2)]
    figures, counts = classify(rows, batch_size=batch_size)
    assert counts == {"images": 5, "labelled_images": 4, "classes": 3}
    top1, top5 = figures["classes/cls/top1"], figures["classes/cls/top5"]
    assert (top1["value"], top1["count"], top1["chance"]) == (3 / 4, 4, pytest.approx(1 / 3))
    assert (top5["value"], top5["chance"]) == (1, 1)
    assert top1["low"] < 3 / 4 < top1["high"]


def test_classes_of_one_name_share_the_hit():
    classes = Classes(["red", "blue", "red", "green"], ["{}"])
    figures, _ = classify([whole("red", 2), whole("red", 0), whole("blue", 1)], classes)
    assert figures["classes/cls/top1"]["value"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_boxes_are_classified_by_what_is_in_them():
    painted = [("red", (0, 0, 32, 32)), ("blue", (32, 0, 64, 32)), ("green", (0, 32, 64, 64))]
    boxes = [(list(box), label) for (_, box), label in zip(painted, (0, 2, 0), strict=True)]
    regions = [{"box": box, "text": "thing", "label": label} for box, label in boxes]
    unlabelled = {"box": [0, 0, 9, 9], "text": "thing"}
    rows = [{"image": image(painted), "regions": [*regions, unlabelled]}, {"image": image()}]
    for batch_size in (1, 2):
        figures, counts = classify(rows, batch_size=batch_size)
        assert counts == {"images": 2, "labelled_boxes": 3, "classes": 3}
        assert figures["boxes/region/top1"]["value"] == pytest.approx(2 / 3)  # the third label is wrong
        # Half of the image is green, which no label says; red and blue are tied behind it.
        assert figures["boxes/cls/top1"]["value"] == 0
    rows[0] |= {"box_format": "xyxy_normalized"}
    rows[0]["regions"] = []
    for region in regions:
        rows[0]["regions"].append({**region, "box": [x / 64 for x in region["box"]]})
    assert classify(rows)[0]["boxes/region/top1"]["value"] == pytest.approx(2 / 3)


def test_a_box_of_which_nothing_is_seen_is_at_chance():
    picture = image([("red", (0, 0, 16, 64))], size=(128, 64))  # the view is 32..96
    region = {"box": [0, 0, 16, 64], "text": "red", "label": 0}
    figures, _ = classify([{"image": picture, "regions": [region]}])
    assert figures["boxes/region/top1"]["value"] == figures["boxes/region/top1"]["chance"] == pytest.approx(1 / 3)


@torch.no_grad()
def test_class_embeds_equal_loops_over_prompts(tiny_model, tiny_processor):
    actual = class_embeds(Embedder(tiny_model, tiny_processor, batch_size=4), CLASSES)
    for name, embed in zip(NAMES, actual, strict=True):
        total = torch.zeros(32)
        for prompt in (f"a photo of a {name}.", f"the {name}, drawn: {name}", name):
            text = tiny_model.get_text_features(**tiny_processor(text=[prompt], return_tensors="pt")).pooler_output[0]
            total += text / text.norm()
        torch.testing.assert_close(embed, total / total.norm(), atol=1e-5, rtol=0)
    assert float((actual[0] - actual[2]).norm()) > 1e-3 and torch.equal(actual[1], actual[3])


@torch.no_grad()
@pytest.mark.parametrize("squash", [True, False])
def test_all_figures_equal_loops_over_images_and_boxes(tiny_model, tiny_tokenizer, squash):
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32, squash=squash)
    generator = torch.Generator().manual_seed(0)
    embeds = class_embeds(Embedder(tiny_model, processor), CLASSES)
    # Boxes are also measured by one prompt.
    plain_embeds = class_embeds(Embedder(tiny_model, processor), Classes(NAMES, PLAIN_TEMPLATES))
    rows, labels = [], {"classes": [], "boxes": [], "boxes[plain]": []}
    scores = {"classes/cls": [], "boxes/cls": [], "boxes/region": [], "boxes[plain]/cls": [], "boxes[plain]/region": []}
    for number in range(6):
        pixels = torch.randint(256, (30, 60, 3), generator=generator, dtype=torch.uint8).numpy()
        boxes = [[15 + number, 3, 40, 20], [20, 0, 45, 30 - number]][: number % 3]
        labels_of_row = torch.randint(len(NAMES), (3,), generator=generator).tolist()
        regions = [
            {"box": box, "text": "-", "label": label} for box, label in zip(boxes, labels_of_row[1:], strict=False)
        ]
        rows.append({"image": Image.fromarray(pixels), "label": labels_of_row[0], "regions": regions})
        pixel_values = processor(images=rows[-1]["image"], return_tensors="pt")["pixel_values"]
        image_embed = tiny_model.get_image_features(pixel_values).pooler_output
        image_scores = torch.cosine_similarity(image_embed, embeds)
        scores["classes/cls"].append(image_scores)
        labels["classes"].append(labels_of_row[0])
        left, width = (0, 60) if squash else (15, 30)
        for region in regions:
            x1, y1, x2, y2 = region["box"]
            box = torch.tensor([[(x1 - left) / width, y1 / 30, (x2 - left) / width, y2 / 30]])
            region_embed = tiny_model.get_region_features(pixel_values, box)
            scores["boxes/region"].append(torch.cosine_similarity(region_embed, embeds))
            scores["boxes/cls"].append(image_scores)
            scores["boxes[plain]/region"].append(torch.cosine_similarity(region_embed, plain_embeds))
            scores["boxes[plain]/cls"].append(torch.cosine_similarity(image_embed, plain_embeds))
            labels["boxes"].append(region["label"])
            labels["boxes[plain]"].append(region["label"])
    figures = evaluate(tiny_model, processor, rows, classes=CLASSES, batch_size=4)["figures"]
    assert len(figures) == 2 * len(scores)
    values = set()
    for name, score_rows in scores.items():
        # Copies of a class are exactly tied, whatever the loop made of their last bits.
        first_of_name = [NAMES.index(class_name) for class_name in NAMES]
        table = [image_scores[first_of_name].tolist() for image_scores in score_rows]
        wanted = []
        for label in labels[name.partition("/")[0]]:
            wanted.append([place == label for place in range(len(NAMES))])
        for k in (1, 5):
            expected = recall_at_k(table, wanted, k)
            values.add(expected)
            assert figures[f"{name}/top{k}"]["value"] == pytest.approx(expected)
    assert len(values) > 3


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        (3, COLOURS, "label must be a whole number from 0 to 2, but is 3"),
        (-1, COLOURS, "label must be a whole number from 0 to 2, but is -1"),
        ("red", COLOURS, "label must be a whole number from 0 to 2, but is 'red'"),
        (0, Classes(["red"], ["red"]), "templates must hold {} .*, but one is 'red'"),
        (0, Classes(["red"], []), "names and templates, but have 1 and 0"),
    ],
)
def test_what_cannot_be_classified_is_refused(label, classes, message):
    with pytest.raises(ValueError, match=message):
        classify([whole("red", label)], classes)


def test_labels_without_classes_are_not_looked_at():
    with pytest.raises(ValueError, match="rows must have captions or labels"):
        classify([whole("red", 0)], None)
    figures, _ = classify([whole("red", "a label of another kind", caption="red")], None)
    assert not any(name.startswith("classes") for name in figures)


def test_the_hash_of_the_data_knows_the_classes():
    rows = [whole("red", 0)]
    hashes = {
        evaluate(ColourModel(), ColourProcessor(), rows, classes=classes)["data_hash"]
        for classes in (COLOURS, COLOURS, Classes(["red", "blue"], ["{}"]), Classes(COLOURS.names, ["{}", "{}"]))
    }
    assert len(hashes) == 3
