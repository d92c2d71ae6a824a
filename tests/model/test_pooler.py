import pytest
import torch
from torch.nn import functional as F

import reference
from beta_clip_hf import BetaCLIPConfig, TextConditionedPooler
from beta_clip_hf.model.modeling_beta_clip import BetaCLIPModel


IMAGE_INDEX = torch.tensor([0, 0, 0, 2, 2, 3])  # image 1 has no text


@pytest.fixture
def pooler(tiny_model):
    # Biases and norms of a new pooler change nothing: give them weight.
    for parameter in tiny_model.pooler.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return tiny_model.pooler.double()


@pytest.fixture
def texts():
    return torch.randn(6, 32, dtype=torch.float64)


@pytest.fixture
def patches():
    return torch.randn(4, 16, 32, dtype=torch.float64)


def test_equals_one_text_at_a_time_in_float64(pooler, texts, patches):
    pooled, attention = pooler(texts, patches, IMAGE_INDEX, output_attentions=True)
    assert attention.shape == (6, 8, 16)
    for text, image in enumerate(IMAGE_INDEX):
        expected, expected_attention = reference.pooled(pooler, texts[text], patches[image])
        torch.testing.assert_close(pooled[text].double(), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(attention[text].double(), expected_attention, rtol=1e-10, atol=1e-10)


def test_the_other_texts_and_their_order_do_not_matter(pooler, texts, patches):
    pooled, _ = pooler(texts, patches, IMAGE_INDEX)
    order = torch.tensor([5, 0, 3, 2, 4, 1])
    shuffled, _ = pooler(texts[order], patches, IMAGE_INDEX[order])
    torch.testing.assert_close(shuffled, pooled[order], rtol=1e-10, atol=1e-10)
    alone, _ = pooler(texts[3:4], patches, IMAGE_INDEX[3:4])
    torch.testing.assert_close(alone, pooled[3:4], rtol=1e-10, atol=1e-10)


def test_sdpa_and_eager_agree_and_both_give_attention(pooler, texts, patches):
    results = {}
    for implementation in ("sdpa", "eager"):
        pooler.config._attn_implementation = implementation
        plain, no_attention = pooler(texts, patches, IMAGE_INDEX)
        with_attention, attention = pooler(texts, patches, IMAGE_INDEX, output_attentions=True)
        assert no_attention is None
        torch.testing.assert_close(plain, with_attention, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(6, 8), check_dtype=False)
        results[implementation] = plain, attention
    for sdpa, eager in zip(*results.values(), strict=True):
        torch.testing.assert_close(sdpa, eager, rtol=1e-10, atol=1e-10)


def test_a_text_may_look_at_nothing_with_a_null_token(tiny_config, texts, patches):
    tiny_config.pooler_null_token = True
    pooler = BetaCLIPModel(tiny_config).pooler.double()
    _, attention = pooler(texts, patches, IMAGE_INDEX, output_attentions=True)
    assert attention.shape == (6, 8, 16)
    assert (attention.sum(dim=-1) < 0.999).all()
    # As torch's own attention does it: a key and a value of zeros beside the projected ones.
    twin = torch.nn.MultiheadAttention(32, 8, add_zero_attn=True, batch_first=True, dtype=torch.float64)
    projections = (pooler.q_proj, pooler.k_proj, pooler.v_proj)
    twin.in_proj_weight.data = torch.cat([projection.weight.data for projection in projections])
    twin.in_proj_bias.data = torch.cat([projection.bias.data for projection in projections])
    twin.out_proj = pooler.out_proj
    keys = F.normalize(patches[IMAGE_INDEX], dim=-1)
    attended, _ = twin(F.normalize(texts, dim=-1)[:, None], keys, keys)
    hidden = pooler.fc2(pooler.activation(pooler.fc1(pooler.layer_norm(attended[:, 0]))))
    torch.testing.assert_close(pooler(texts, patches, IMAGE_INDEX)[0], attended[:, 0] + hidden, rtol=1e-10, atol=1e-10)


def test_layer_norm_on_queries_keys_and_values_is_an_option(tiny_config, texts, patches):
    assert isinstance(BetaCLIPModel(tiny_config).pooler.q_norm, torch.nn.Identity)
    tiny_config.pooler_qkv_layer_norm = True
    pooler = BetaCLIPModel(tiny_config).pooler.double()
    before, _ = pooler(texts, patches, IMAGE_INDEX)
    for norm in (pooler.q_norm, pooler.k_norm, pooler.v_norm):
        assert isinstance(norm, torch.nn.LayerNorm)
        norm.weight.data *= 2
        after, _ = pooler(texts, patches, IMAGE_INDEX)
        assert not torch.allclose(before, after)
        before = after


def test_gradients_reach_texts_patches_and_every_parameter(pooler, texts, patches):
    texts.requires_grad_(), patches.requires_grad_()
    pooler(texts, patches, IMAGE_INDEX)[0].square().sum().backward()
    assert texts.grad.abs().amax(dim=1).min() > 0
    assert patches.grad[1].abs().max() == 0  # no text asked this image
    assert patches.grad[[0, 2, 3]].abs().amax(dim=(1, 2)).min() > 0
    for name, parameter in pooler.named_parameters():
        # The softmax is blind to a shift of all keys, and the logit scale belongs to the loss.
        if name not in ("k_proj.bias", "logit_scale"):
            assert parameter.grad.abs().max() > 1e-6, name


def test_construction_from_a_configuration_alone():
    pooler = TextConditionedPooler(BetaCLIPConfig(projection_dim=64, pooler_num_attention_heads=4, pooler_mlp_ratio=2))
    assert (pooler.fc1.out_features, pooler.num_heads) == (128, 4)
    assert pooler(torch.randn(2, 64), torch.randn(1, 9, 64), torch.zeros(2, dtype=torch.long))[0].shape == (2, 64)
