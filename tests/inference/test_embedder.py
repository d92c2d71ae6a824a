"""Images and texts become embeddings in their order, whatever batch they are in."""

from itertools import chain

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.grids import grids_of
from beta_clip_hf.inference.texts import TOKENS_AT_A_TIME_ON_CPU
from beta_clip_hf.model.packing_beta_clip import text_lengths


TEXTS = ["a dog", "a very long description of two dogs and their ball", "a cat", "a dog", "cats"] * 3


def images(count):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 40, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    return [{"id": str(i), "image": Image.fromarray(pixels[i]), "caption": f"image {i}"} for i in range(count)]


def embed_alone(model, processor, text):
    """The normalised embedding of a text that is a batch by itself."""
    with torch.no_grad():
        features = model.get_text_features(**processor(text=[text], return_tensors="pt")).pooler_output
    return features[0] / features[0].norm()


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_texts_keep_their_order_and_do_not_depend_on_the_batch(tiny_model, tiny_processor, batch_size):
    embeds = Embedder(tiny_model, tiny_processor, batch_size=batch_size).texts(TEXTS)
    expected = torch.stack([embed_alone(tiny_model, tiny_processor, text) for text in TEXTS])
    assert float((expected[0] - expected[1]).norm()) > 0.01
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=0)


def test_equal_texts_are_tied_exactly(tiny_model, tiny_processor):
    embeds = Embedder(tiny_model, tiny_processor, batch_size=2).texts(TEXTS)
    assert torch.equal(embeds[0], embeds[3]) and torch.equal(embeds[:5], embeds[5:10])


def mixed_texts(count):
    """Half of them long, half of them short, none like another."""
    long = [f"number {i} is a long description of two dogs and a ball, and it goes on " for i in range(count // 2)]
    return long + [f"dog {i}" for i in range(count - len(long))]


def operations(work):
    """The floating-point operations of some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("path", [None, "long"])
def test_packed_texts_equal_texts_alone_in_float64(tiny_model, both_systems_config, tiny_processor, path):
    model = tiny_model.double()
    if path is not None:
        model = BetaCLIPModel(both_systems_config).double().eval()
        tiny_processor.short_max_length = 77
    embedder = Embedder(model, tiny_processor, normalize=False, batch_size=3)
    texts = [*mixed_texts(9), "dog 1 ", "a dog"]
    # The embedder gives float32, so its steps are taken one by one.
    embedder._scaled = lambda features: features
    embeds = embedder.texts(texts, "caption" if path == "long" else "phrase")
    options = {} if path is None else {"path": path}
    alone = []
    for text in texts:
        with torch.no_grad():
            inputs = tiny_processor(text=[text], path=path, return_tensors="pt")
            alone.append(model.get_text_features(**inputs, **options).pooler_output[0])
    assert embeds.dtype == torch.float64
    torch.testing.assert_close(embeds, torch.stack(alone), atol=1e-12, rtol=0)
    # Space at its end is cleaned away: the tokens are equal.
    assert torch.equal(embeds[texts.index("dog 1")], embeds[texts.index("dog 1 ")])


def test_packing_saves_a_fifth_of_the_operations_of_sorted_batches(tiny_model, tiny_processor):
    texts = mixed_texts(96)
    embedder = Embedder(tiny_model, tiny_processor)
    by_length = sorted(texts, key=len)

    def padded():
        for start in range(0, len(texts), 32):
            inputs = tiny_processor(text=by_length[start : start + 32], padding=True, return_tensors="pt")
            with torch.no_grad():
                tiny_model.get_text_features(**inputs)

    assert operations(lambda: embedder.texts(texts)) <= 0.8 * operations(padded)


def test_a_batch_of_texts_has_no_more_tokens_than_fit(tiny_model, tiny_processor, monkeypatch):
    seen = []
    encode = tiny_model.encode_texts

    def counting(ids, is_long, packing):
        tokens = int(text_lengths(ids, tiny_model.text_model.eos_token_id).sum())
        assert packing.num_places <= 1.5 * tokens
        seen.append((tokens, len(ids)))
        return encode(ids, is_long, packing)

    monkeypatch.setattr(tiny_model, "encode_texts", counting)
    Embedder(tiny_model, tiny_processor, batch_size=100).texts(mixed_texts(400))
    assert max(tokens for tokens, _ in seen) <= TOKENS_AT_A_TIME_ON_CPU
    assert sum(count for _, count in seen) == 400 and len(seen) < 20
    seen.clear()
    Embedder(tiny_model, tiny_processor, batch_size=1).texts(mixed_texts(10))
    positions = tiny_model.config.text_config.max_position_embeddings
    assert max(tokens for tokens, _ in seen) <= positions


def test_no_text_is_an_empty_tensor(tiny_model, tiny_processor):
    assert Embedder(tiny_model, tiny_processor).texts([]).shape == (0, 32)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_come_in_order_with_their_rows(tiny_model, tiny_processor, num_workers):
    rows = images(5)
    batches = list(Embedder(tiny_model, tiny_processor, batch_size=2, num_workers=num_workers).images(rows))
    assert [batch.image_index_B.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    batch_rows = list(chain.from_iterable(batch.rows for batch in batches))
    assert [row["id"] for row in batch_rows] == [row["id"] for row in rows]
    assert all("image" not in row for row in batch_rows)
    assert batches[0].sizes == [(32, 40)] * 2 and grids_of(batches[0].patches) == [(4, 4)] * 2
    pixel_values = tiny_processor(images=[row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = tiny_model.get_image_features(pixel_values).pooler_output
        patches = tiny_model.get_patch_features(pixel_values)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(torch.cat([batch.image_embeds_BD for batch in batches]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([batch.patches.features for batch in batches]), patches, atol=1e-4, rtol=0)


def test_the_model_is_left_as_it_was_and_no_graph_is_kept(tiny_model, tiny_processor):
    tiny_model.train()
    embedder = Embedder(tiny_model, tiny_processor)
    (batch,) = embedder.images(images(2))
    assert tiny_model.training
    assert not embedder.texts(["a"]).requires_grad and not batch.patches.features.requires_grad


def test_half_precision_embeds_in_float32_and_close(tiny_model, tiny_processor):
    exact = Embedder(tiny_model, tiny_processor).texts(TEXTS)
    half = Embedder(tiny_model.to(torch.bfloat16), tiny_processor)
    (batch,) = half.images(images(2))
    assert half.texts(TEXTS).dtype == batch.image_embeds_BD.dtype == torch.float32
    assert float((half.texts(TEXTS) * exact).sum(-1).min()) > 0.99
    scores = half.pair_scores(batch, half.texts(["a dog", "a cat"]))
    assert scores.shape == (2, 2) and scores.dtype == torch.float32


def test_an_image_that_cannot_be_read_stops_the_evaluation(tiny_model, tiny_processor):
    rows = [*images(1), {"image": b"no image", "caption": "a"}]
    with pytest.raises(ValueError, match="image must be readable"):
        list(Embedder(tiny_model, tiny_processor).images(rows))
    with pytest.raises(ValueError, match="batch_size"):
        Embedder(tiny_model, tiny_processor, batch_size=0)
