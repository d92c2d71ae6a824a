"""What the model sees, as the demo shows it."""

import pytest
import torch
from PIL import Image

from beta_clip_hf.demo import views
from beta_clip_hf.visualize.heat_maps import highest_of, overlay

from .pictures import same


@pytest.mark.parametrize("head", [None, 0, 5])
def test_a_heat_map_is_the_attention_of_that_text_and_head(seen, model, processor, collection, head):
    image, place = collection.example(0).image, 2
    maps = []
    with torch.no_grad():
        for text in seen.texts:
            inputs = processor(images=image, text=[text.text], padding=True, return_tensors="pt")
            _, attention_1HP = model.get_text_conditioned_image_features(**inputs, output_attentions=True)
            attention_HYX = attention_1HP[0].unflatten(-1, (4, 4))
            maps.append(attention_HYX.mean(dim=0) if head is None else attention_HYX[head])
    assert torch.allclose(seen.look.maps(head), torch.stack(maps), atol=1e-4)
    shown = seen.look.maps(head)
    assert same(seen.heat_map(place, head), overlay(views.shown_size(image), shown[place], highest_of(*shown)))


def test_heads_and_texts_differ(seen):
    assert not same(seen.heat_map(2, 0), seen.heat_map(2, 1)) and not same(seen.heat_map(2), seen.heat_map(4))


def test_images_are_shown_neither_tiny_nor_huge():
    assert views.shown_size(Image.new("L", (32, 64))).size == (256, 512)
    small = views.shown_size(Image.new("RGB", (2000, 1000)))
    assert small.size == (512, 256) and small.mode == "RGB"


def test_what_differs_between_captions():
    same_phrases = ("A cube is red.", "A cube is blue.")
    assert views.differences("A red cube and a ball.", "a ball and a red cube, a dog")[1] == ["a dog"]
    assert views.differences(*same_phrases) == (["A cube is red."], ["A cube is blue."])
    many = ", ".join(f"a {word} cube" for word in ("red", "blue", "green", "black", "white", "pink"))
    assert len(views.differences(many, "a ball")[0]) == views.MOST_DIFFERENT
    with pytest.raises(ValueError, match="must differ"):
        views.differences("A cube.", " a cube")


def test_what_is_found_is_shown_in_order(collection):
    text = "A red circle and a blue square"
    found = views.find(collection.index, text, top=3, rerank=False)
    hits = collection.index.search(text, top=3)
    assert found.hits == hits and found.phrases == ["A red circle", "a blue square"]
    shown = views.thumbnails(collection.index, found)
    assert [label.partition(" — ")[0] for _, label in shown] == [f"{n}. {h.score:.3f}" for n, h in enumerate(hits, 1)]
    assert [label.partition(" — ")[2] for _, label in shown] == [hit.columns["caption"] for hit in hits]
    assert views.find(collection.index, text, top=3, rerank=True).hits == collection.index.search(
        text, top=3, rerank=30
    )


def test_another_kind_of_model_is_told_in_a_sentence(collection, processor):
    with pytest.raises(ValueError, match="must be a β-CLIP, FG-CLIP or FG-CLIP 2 for this, but is a Linear"):
        views.explore(torch.nn.Linear(1, 1), processor, collection.example(0).image, "a cat")
