"""What the model declares about itself to transformers, held against what it is."""

import inspect

import pytest
import torch
from torch import nn
from transformers import CLIPModel

from beta_clip_hf import BetaCLIPModel


METHODS = [
    "encode", "forward", "get_image_features", "get_text_features", "get_patch_features", "get_region_features",
    "get_text_conditioned_image_features",
]  # fmt: skip


@pytest.fixture(params=["one text path", "both systems", "no pooler"])
def model(request, tiny_config, both_systems_config):
    config = tiny_config if request.param != "both systems" else both_systems_config
    config.use_pooler = request.param != "no pooler"
    return BetaCLIPModel(config).eval()


def test_the_embeddings_of_tokens_are_the_input(model):
    table = model.get_input_embeddings()
    assert table is model.text_model.embeddings.token_embedding
    ids = torch.tensor([[512, 5, 7, 513]])
    before = model.get_text_features(ids).pooler_output
    replaced = nn.Embedding(*table.weight.shape)
    model.set_input_embeddings(replaced)
    assert model.get_input_embeddings() is replaced
    assert not torch.allclose(model.get_text_features(ids).pooler_output, before)
    replaced.weight.data.copy_(table.weight.data)
    torch.testing.assert_close(model.get_text_features(ids).pooler_output, before)


def test_modules_that_are_kept_whole_are_there(model):
    present = {type(module).__name__ for module in model.modules()}
    names = set(model._no_split_modules)
    assert names <= present
    # All that CLIP keeps whole or what has taken its place, and our own modules with several weights in one `forward`.
    expected = {"CLIPEncoderLayer", "CLIPVisionEmbeddings", "LastTextLayer"}
    expected.add("TwoPathTextEmbeddings" if model.long_text_projection is not None else "CLIPTextEmbeddings")
    if model.pooler is not None:
        expected.add("TextConditionedPooler")
    assert expected <= names


def test_no_weights_are_tied(model):
    assert not model._tied_weights_keys
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("flag", [name for name in dir(CLIPModel) if name.startswith(("_supports", "supports_"))])
def test_what_clip_supports_is_supported(flag):
    assert inspect.getattr_static(BetaCLIPModel, flag) == inspect.getattr_static(CLIPModel, flag)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
def test_every_supported_attention_can_be_set(tiny_config, implementation):
    model = BetaCLIPModel._from_config(tiny_config, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    assert model.text_model.config._attn_implementation == implementation
    assert model.vision_model.config._attn_implementation == implementation


@pytest.mark.parametrize("name", METHODS)
def test_every_argument_is_documented(name):
    method = getattr(BetaCLIPModel, name)
    documentation = inspect.getdoc(method)
    for argument, parameter in inspect.signature(method).parameters.items():
        if argument != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert argument in documentation, argument
