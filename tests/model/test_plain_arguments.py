"""Arguments of a plain batch: what transformers knows passes, a misspelt name is told with the name that was meant."""

import copy
import inspect

import pytest
import torch

from beta_clip_hf import BetaCLIPModel
from integration.uses import END, flat_batch


@pytest.fixture
def batch(tiny_clip_config):
    ids = torch.tensor([[512, 5, 6, END], [512, 7, END, END]])
    return {"pixel_values": torch.randn(2, 3, 32, 32), "input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("image_idx", ": did you mean 'image_index'?"),
        ("granularities", ": did you mean 'granularity'?"),
        ("pixel_value", ": did you mean 'pixel_values'?"),
        ("return_los", ": did you mean 'return_loss'?"),
        ("output_attention", ": did you mean 'output_attentions'?"),
        ("foo", ""),
    ],
)
def test_an_unknown_argument_is_named(tiny_model, batch, name, similar):
    sides = [batch, {"pixel_values": batch["pixel_values"]}, {"input_ids": batch["input_ids"]}]
    for inputs in sides:
        with pytest.raises(TypeError) as caught:
            tiny_model(**inputs, **{name: torch.tensor([0, 1])})
        assert str(caught.value) == f"forward got an unexpected keyword argument {name!r}{similar}"


def test_what_transformers_passes_to_any_model_passes(tiny_model, batch):
    expected = tiny_model(**batch).logits_per_image
    unset = {
        "inputs_embeds": None,
        "num_items_in_batch": torch.tensor(2),
        "use_cache": False,
        "output_attentions": None,
    }
    assert torch.equal(tiny_model(**batch, **unset, return_dict=True).logits_per_image, expected)
    states = tiny_model(**batch, output_hidden_states=True)
    assert len(states.vision_model_output.hidden_states) == 3


def test_flat_and_plain_batches_know_the_same_names(tiny_model):
    """A name that is misspelt for one of them is misspelt for the other."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo' for a batch with image_index"):
        tiny_model(**flat_batch(), foo=1)
    assert "image_index" in inspect.signature(tiny_model.forward).parameters


def test_texts_that_are_padded_on_the_left_are_refused(tiny_model):
    """They would be read at their first padding, which is the end token."""
    batch = flat_batch()
    batch["input_ids"][3].fill_(END)
    batch["input_ids"][3, -3:] = torch.tensor([END - 1, 7, END])
    for path in (tiny_model, BetaCLIPModel(two_paths(tiny_model.config)).eval()):
        with pytest.raises(
            ValueError, match="a text must be padded on the right, but one of input_ids begins and ends"
        ):
            path(**batch)
        with pytest.raises(ValueError, match=r"a text must be padded on the right, .+: set padding_side='right'"):
            path.get_text_conditioned_image_features(batch["pixel_values"][:1], batch["input_ids"])


def two_paths(config):
    config = copy.deepcopy(config)
    config.use_long_text_path = True
    return config


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["logit_scale", "pooler.logit_scale", "text_model.final_layer_norm.weight"])
def test_a_checkpoint_with_a_broken_weight_is_refused(tiny_model, tmp_path, name, value):
    with torch.no_grad():
        tiny_model.get_parameter(name).view(-1)[-1] = value
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"tensors of a checkpoint must be finite, but .+ has NaN or infinity in {name}"
    ):
        BetaCLIPModel.from_pretrained(tmp_path)


def test_large_weights_of_half_precision_are_finite(tiny_model, tmp_path):
    """Their sum overflows in half precision."""
    with torch.no_grad():
        tiny_model.visual_projection.weight.fill_(6e4)
    tiny_model.half().save_pretrained(tmp_path)
    loaded = BetaCLIPModel.from_pretrained(tmp_path, dtype=torch.float16)
    assert (loaded.visual_projection.weight == 6e4).all()


def test_images_or_texts_alone_have_what_pipelines_pool(tiny_model, batch):
    for name, features in (
        ("pixel_values", tiny_model.get_image_features),
        ("input_ids", tiny_model.get_text_features),
    ):
        outputs = tiny_model(**{name: batch[name]})
        assert torch.equal(outputs["pooler_output"], features(batch[name]).pooler_output)
    assert "pooler_output" not in tiny_model(**batch)
