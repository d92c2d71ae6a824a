import pytest
import torch
from PIL import Image

from beta_clip_hf.evaluation import retrieval
from beta_clip_hf.evaluation.metrics import recall_at_k
from beta_clip_hf.evaluation.retrieval import RetrievalEvaluator
from evaluation.colours import ColourModel, ColourProcessor


def rows_of(count, captions_per_image):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    return [
        {"image": Image.fromarray(pixels[i]), "captions": [f"photo {i} of {j}" for j in range(captions_per_image(i))]}
        for i in range(count)
    ]


@pytest.mark.parametrize("ranked_at_a_time", [3, 1000])
def test_both_scores_equal_loops_over_single_images_and_texts(
    tiny_model, tiny_processor, monkeypatch, ranked_at_a_time
):
    monkeypatch.setattr(retrieval, "RANKED_AT_A_TIME", ranked_at_a_time)
    rows = rows_of(7, lambda i: 1 + i % 3)
    flat = [caption for row in rows for caption in row["captions"]]
    image_index = torch.tensor([i for i, row in enumerate(rows) for _ in row["captions"]])
    scores = {"cls": torch.zeros(7, len(flat)), "conditioned": torch.zeros(7, len(flat))}
    for i, row in enumerate(rows):
        pixels = tiny_processor(images=row["image"], return_tensors="pt")["pixel_values"]
        for t, text in enumerate(flat):
            ids = tiny_processor(text=[text], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                image = tiny_model.get_image_features(pixels).pooler_output[0]
                embed = tiny_model.get_text_features(ids).pooler_output[0]
                conditioned = tiny_model.get_text_conditioned_image_features(pixels, ids)[0]
            scores["cls"][i, t] = torch.cosine_similarity(image, embed, dim=0)
            scores["conditioned"][i, t] = conditioned @ embed / embed.norm()
    figures = RetrievalEvaluator(ks=(1, 2, 5), batch_size=3)(tiny_model, tiny_processor, rows)
    values = set()
    for name, scores_BT in scores.items():
        image_to_text = recall_at_k(scores_BT, image_index == torch.arange(7)[:, None], (1, 2, 5))
        text_to_image = recall_at_k(scores_BT.T, image_index, (1, 2, 5))
        for k in (1, 2, 5):
            values |= {image_to_text[k], text_to_image[k]}
            assert figures[f"short/{name}/image_to_text/R@{k}"].value == pytest.approx(image_to_text[k])
            assert figures[f"short/{name}/text_to_image/R@{k}"].value == pytest.approx(text_to_image[k])
    assert len(values) > 4


def colour_rows(colours, **extra):
    return [{"image": Image.new("RGB", (32, 32), colour), "caption": colour, **extra} for colour in colours]


def test_planted_colours_are_found_by_cls():
    figures = RetrievalEvaluator()(ColourModel(), ColourProcessor(), colour_rows(["red", "green", "blue"]))
    assert figures["long/cls/image_to_text/R@1"].value == figures["long/cls/text_to_image/R@1"].value == 1
    assert figures["long/cls/text_to_image/R@1"].chance == pytest.approx(1 / 3)
    assert figures["long/cls/text_to_image/median_rank"].value == 1


def test_a_pooler_that_leaks_the_text_is_at_chance():
    """v_{i|t} = u_t whatever the image: conditioning each image on its own caption would make that 100 %."""
    figures = RetrievalEvaluator()(ColourModel(), ColourProcessor(), colour_rows(["red", "green", "blue"]))
    for direction in ("image_to_text", "text_to_image"):
        figure = figures[f"long/conditioned/{direction}/R@1"]
        assert figure.value == pytest.approx(figure.chance) == pytest.approx(1 / 3)
        assert figures[f"long/conditioned/{direction}/median_rank"].value == 2


def test_equal_captions_share_the_hit():
    figures = RetrievalEvaluator()(ColourModel(), ColourProcessor(), colour_rows(["red", "red", "blue"]))
    assert figures["long/cls/image_to_text/R@1"].value == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_which_texts_are_measured():
    evaluator = RetrievalEvaluator(conditioned=False, ks=(1,))
    model, processor = ColourModel(), ColourProcessor()
    long, short = ({f"{name}/cls/{way}" for way in ("image_to_text", "text_to_image")} for name in ("long", "short"))

    def measured(rows):
        return {name.rsplit("/", 1)[0] for name in evaluator(model, processor, rows)}

    assert measured(colour_rows(["red", "blue"])) == long
    assert measured(colour_rows(["red", "blue"], short_caption="green")) == long | short
    some_with = [*colour_rows(["red"], captions=["red", "green"]), *colour_rows(["blue"])]
    assert measured(some_with) == long


def test_several_captions_count_each_as_a_query_and_any_as_a_hit():
    rows = [
        {"image": Image.new("RGB", (32, 32), "red"), "caption": "red", "captions": ["blue", "red"]},
        {"image": Image.new("RGB", (32, 32), "lime"), "caption": "green", "captions": ["green"]},
    ]
    figures = RetrievalEvaluator(conditioned=False)(ColourModel(), ColourProcessor(), rows)
    to_text, to_image = figures["short/cls/image_to_text/R@1"], figures["short/cls/text_to_image/R@1"]
    assert (to_text.count, to_image.count) == (2, 3)
    assert to_text.value == 1  # "blue" is wrong of both images, tied between them: (1/2 + 1 + 1) / 3
    assert to_image.value == pytest.approx(2.5 / 3)
    assert to_text.chance == pytest.approx((2 / 3 + 1 / 3) / 2) and to_image.chance == pytest.approx(1 / 2)
