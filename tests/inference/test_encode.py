"""`model.encode`: the embeddings of the processor and the model, in one call."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers.utils import logging

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.quantization import quantize
from beta_clip_hf.model import encoding_beta_clip


TEXTS = ["a dog", "two cats on a wall", "a dog", "word " * 400, "“quoted” <|endoftext|> text"]


@pytest.fixture
def photos(tmp_path):
    """The same five pictures as PIL images, and in other forms."""
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (40, 30 + 5 * number, 3), np.uint8)) for number in range(5)]
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures[1].save(tmp_path / "path.png")
    pictures[2].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    forms = [
        pictures[0],
        tmp_path / "path.png",
        (tmp_path / "turned.png").read_bytes(),
        np.asarray(pictures[3]),
        torch.from_numpy(np.asarray(pictures[4]).copy()).permute(2, 0, 1),
    ]
    return pictures, forms


def expected_texts(model, processor, texts, **path):
    inputs = processor(text=texts, padding=True, return_tensors="pt", **path)
    with torch.no_grad():
        return model.get_text_features(**inputs, **path).pooler_output


def expected_images(model, processor, images):
    with torch.no_grad():
        return model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_embeddings_are_those_of_processor_and_model(tiny_model, tiny_processor, photos, batch_size):
    pictures, forms = photos
    features = {
        "texts": (TEXTS, expected_texts(tiny_model, tiny_processor, TEXTS)),
        "images": (forms, expected_images(tiny_model, tiny_processor, pictures)),
    }
    for name, (values, features_MD) in features.items():
        options = {name: values, "processor": tiny_processor, "batch_size": batch_size}
        embeds = tiny_model.encode(**options)
        assert embeds.dtype == torch.float32 and not embeds.requires_grad
        torch.testing.assert_close(embeds, normalize(features_MD, dim=-1))
        torch.testing.assert_close(tiny_model.encode(**options, normalize=False), features_MD)
        cut = tiny_model.encode(**options, truncate_dim=10)
        torch.testing.assert_close(cut, normalize(features_MD[:, :10], dim=-1))
        torch.testing.assert_close(tiny_model.encode(**options, truncate_dim=10, normalize=False), features_MD[:, :10])


def test_they_are_the_very_embeddings_of_evaluation_and_search(tiny_model, tiny_processor, photos):
    pictures, _ = photos
    embedder = Embedder(tiny_model, tiny_processor, batch_size=2)
    rows = [{"image": picture} for picture in pictures]
    images = torch.cat([batch.image_embeds_BD for batch in embedder.images(rows)])
    assert torch.equal(tiny_model.encode(images=pictures, processor=tiny_processor, batch_size=2), images)
    assert torch.equal(tiny_model.encode(texts=TEXTS, processor=tiny_processor, batch_size=2), embedder.texts(TEXTS))


def test_a_single_image_or_text_has_one_embedding(tiny_model, tiny_processor, photos):
    _, forms = photos
    many = tiny_model.encode(images=forms, processor=tiny_processor, batch_size=1)
    for form, embeds_D in zip(forms, many, strict=True):
        assert torch.equal(tiny_model.encode(images=form, processor=tiny_processor), embeds_D)
    assert torch.equal(
        tiny_model.encode(texts="a dog", processor=tiny_processor),
        tiny_model.encode(texts=["a dog"], processor=tiny_processor)[0],
    )
    stacked = torch.stack([torch.as_tensor(np.array(Image.new("RGB", (32, 32), name))) for name in ("red", "blue")])
    assert tiny_model.encode(images=stacked, processor=tiny_processor).shape == (2, 32)
    assert tiny_model.encode(images=iter(forms), processor=tiny_processor).shape == (5, 32)


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_floats_may_be_shares_of_white(tiny_model, tiny_processor, form):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    floats = pixels.astype(np.float32)
    images = [Image.fromarray(pixels), form(floats), form(floats / 255)]
    by_integers, by_floats, by_shares = tiny_model.encode(images=images, processor=tiny_processor)
    torch.testing.assert_close(by_floats, by_integers, rtol=0, atol=1e-5)
    torch.testing.assert_close(by_shares, by_integers, rtol=0, atol=1e-5)


def test_nothing_to_encode_gives_no_rows(tiny_model, tiny_processor):
    for options in ({"texts": []}, {"images": []}):
        assert tiny_model.encode(**options, processor=tiny_processor, truncate_dim=7).shape == (0, 7)
        assert tiny_model.encode(**options, processor=tiny_processor, precision="binary").shape == (0, 4)
        assert tiny_model.encode(**options, processor=tiny_processor, precision="int8").dtype == torch.int8


def test_the_processor_beside_the_model_is_the_default(checkpoint, tiny_processor, photos):
    pictures, _ = photos
    model = BetaCLIPModel.from_pretrained(checkpoint).train()
    assert torch.equal(model.encode(texts=TEXTS), model.encode(texts=TEXTS, processor=tiny_processor))
    assert torch.equal(model.encode(images=pictures), model.encode(images=pictures, processor=tiny_processor))
    assert model.training
    (checkpoint / "processor_config.json").unlink()
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="processor must be given, because none can be read from"):
        model.encode(texts=TEXTS)


def test_texts_take_the_path_that_is_asked_for(both_systems_config, tiny_model, tiny_processor):
    torch.manual_seed(0)
    model = BetaCLIPModel(both_systems_config).eval()
    tiny_processor.short_max_length = 77
    for path in ("short", "long"):
        embeds = model.encode(texts=TEXTS, processor=tiny_processor, path=path)
        expected = expected_texts(model, tiny_processor, TEXTS, path=path)
        torch.testing.assert_close(embeds, normalize(expected, dim=-1))
    with pytest.raises(ValueError, match="path must be None for a model with one text path"):
        tiny_model.encode(texts=TEXTS, processor=tiny_processor, path="long")


@pytest.mark.parametrize("truncate_dim", [None, 12])
def test_quantised_embeddings(tiny_model, tiny_processor, truncate_dim):
    texts = [f"text {number} of many" for number in range(120)]
    options = {"texts": texts, "processor": tiny_processor, "truncate_dim": truncate_dim}
    floats = tiny_model.encode(**options)
    assert torch.equal(tiny_model.encode(**options, precision="int8"), quantize(floats, "int8"))
    assert torch.equal(tiny_model.encode(**options, precision="binary"), quantize(floats, "binary"))
    options["texts"] = "text 7 of many"
    single = tiny_model.encode(**options, precision="int8", calibration_embeds=floats)
    # Batches of other sizes may round the last bit of a float to the other side of a step.
    assert (single.int() - quantize(floats, "int8")[7].int()).abs().max() <= 1


def test_wrong_values_are_named(tiny_model, tiny_processor):
    for options, message in [
        ({}, "exactly one of images and texts must be given"),
        ({"texts": ["a"], "images": []}, "exactly one of images and texts must be given"),
        ({"texts": ["a"], "precision": "int4"}, "precision must be one of .*, but is 'int4'"),
        ({"texts": ["a"], "precision": "int8"}, "calibration_embeds must be given for precision 'int8' of a single"),
        ({"texts": ["a"], "truncate_dim": 0}, "truncate_dim must be a whole number from 1 to 32, .* but is 0"),
        ({"texts": ["a"], "truncate_dim": 33}, "truncate_dim must be .* but is 33"),
        ({"texts": ["a"], "truncate_dim": 1.5}, "truncate_dim must be .* but is 1.5"),
        ({"texts": ["a"], "batch_size": 0}, "batch_size must be at least 1, but is 0"),
        ({"texts": ["a"], "batch_size": 1.5}, "batch_size must be a whole number, but is 1.5"),
        ({"texts": ["a"], "normalize": "no"}, "normalize must be True or False, but is 'no'"),
        (
            {"texts": ["a", "b"], "precision": "int8", "calibration_embeds": torch.full((3, 32), torch.nan)},
            "calibration_embeds must be finite numbers",
        ),
        ({"images": [np.full((9, 9, 3), np.nan, np.float32)]}, r"images\[0\]: the floats of an array must be .* nan"),
        ({"images": [np.full((9, 9, 3), -0.5, np.float32)]}, r"images\[0\]: the floats of an array must be .* -0.5"),
        ({"texts": ["a", None]}, r"texts\[1\] must be a string, but is None"),
        ({"images": ["no/such.jpg"]}, r"images\[0\]: image must be readable, but is 'no/such.jpg'"),
        ({"images": [Image.new("L", (9, 9)), 3]}, r"images\[1\]: image must be a path, bytes or a PIL image, but is 3"),
        ({"images": [[], Image.new("L", (9, 9))]}, r"images\[0\] must be a single image, but holds 0"),
        ({"images": [], "path": "long"}, "path must be left out for images, but is 'long'"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny_model.encode(**options, processor=tiny_processor)
    with pytest.raises(ValueError, match="processor must be a BetaCLIPProcessor, but is a str"):
        tiny_model.encode(texts=["a"], processor="a/directory")
    with pytest.raises(ValueError, match="processor must be given for a model that was not loaded from a directory"):
        tiny_model.encode(texts=["a"])


def test_wrong_calls_are_one_sentence(tiny_model):
    with pytest.raises(TypeError, match="encode takes images=… or texts=… by name, but was given str without one"):
        tiny_model.encode("a dog")
    for name, similar in (("text", "texts"), ("image", "images"), ("batchsize", "batch_size"), ("normalise", "normal")):
        with pytest.raises(TypeError, match=f"encode got an unexpected argument '{name}': did you mean '{similar}"):
            tiny_model.encode(**{name: "a dog"})
    with pytest.raises(TypeError, match=r"encode got an unexpected argument 'foo'$"):
        tiny_model.encode(texts="a dog", foo=1)


def test_the_progress_bar_is_shown_on_request_and_the_setting_stays(tiny_model, tiny_processor, capsys):
    were_shown = logging.is_progress_bar_enabled()
    tiny_model.encode(texts=TEXTS, processor=tiny_processor)
    assert "texts" not in capsys.readouterr().err
    tiny_model.encode(texts=TEXTS, processor=tiny_processor, show_progress_bar=True)
    assert "4/4" in capsys.readouterr().err
    assert logging.is_progress_bar_enabled() == were_shown


def test_the_code_of_a_directory_alone_says_what_is_missing(tiny_model, monkeypatch):
    monkeypatch.setattr(encoding_beta_clip, "encoder", None)
    with pytest.raises(ImportError, match="encode must be called on a model of the package beta-clip-hf"):
        tiny_model.encode(texts=["a dog"])
