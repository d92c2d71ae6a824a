"""Forward hooks fire on a flat batch."""

import torch
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer

from beta_clip_hf.model.pooler_beta_clip import TextConditionedPooler
from integration.uses import flat_batch, new_model


def test_every_layer_is_called(tiny_clip_config):
    model = new_model(tiny_clip_config)
    called = []
    expected = set()
    for name, module in model.named_modules():
        is_linear_or_table = isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        if is_linear_or_table or isinstance(module, CLIPEncoderLayer | CLIPAttention | TextConditionedPooler):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
            expected.add(name)
    with torch.no_grad():
        model(**flat_batch())
    assert set(called) == expected
    assert len([name for name in expected if name.endswith("layers.1")]) == 2


def test_a_replaced_forward_of_the_last_layer_is_used(tiny_clip_config):
    model = new_model(tiny_clip_config)
    for tower in (model.text_model, model.vision_model):
        layer = tower.encoder.layers[-1]
        forward = layer.forward
        layer.forward = lambda *args, forward=forward, **kwargs: torch.zeros_like(forward(*args, **kwargs))
    with torch.no_grad():
        outputs = model(**flat_batch())
    # All texts of a path are alike, and all images.
    assert torch.equal(outputs.text_embeds[0], outputs.text_embeds[6])
    assert torch.equal(outputs.image_embeds[0], outputs.image_embeds[1])


def test_modules_that_stay_whole_are_those_of_the_model(tiny_clip_config):
    whole = new_model(tiny_clip_config)._no_split_modules
    assert {"LastTextLayer", "CLIPEncoderLayer", "TwoPathTextEmbeddings", "TextConditionedPooler"} <= set(whole)
    plain = new_model(tiny_clip_config, use_long_text_path=False, use_pooler=False)
    assert {"TwoPathTextEmbeddings", "TextConditionedPooler"}.isdisjoint(plain._no_split_modules)


def test_input_embeddings_are_the_tokens(tiny_clip_config):
    model = new_model(tiny_clip_config)
    table = model.get_input_embeddings()
    assert table is model.text_model.embeddings.token_embedding
    other = torch.nn.Embedding(*table.weight.shape)
    model.set_input_embeddings(other)
    assert model.text_model.embeddings.token_embedding is other
