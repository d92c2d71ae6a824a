"""Each implementation of attention on a flat batch, and what it refuses."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPAttention

from beta_clip_hf import BetaCLIPModel
from beta_clip_hf.model import attention_beta_clip
from beta_clip_hf.model.pooler_beta_clip import TextConditionedPooler
from integration.uses import END, LENGTHS, all_uses, assert_equal_uses, flat_batch, new_model


@pytest.fixture
def model(tiny_clip_config):
    return new_model(tiny_clip_config, pooler_null_token=True)


@pytest.fixture
def expected(model):
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        return all_uses(model, flat_batch())


def set_by_hand(model, name):
    """Without the check that the package is installed."""
    for config in (model.config, model.config.text_config, model.config.vision_config):
        config._attn_implementation = name
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = name


def test_eager_is_sdpa(model, expected):
    model.set_attn_implementation("eager")
    assert_equal_uses(model, expected)


def test_gradients_of_eager_and_sdpa_are_equal(model):
    batch = flat_batch() | {"return_loss": True}
    other = copy.deepcopy(model)
    model(**batch).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    other.set_attn_implementation("eager")
    other(**batch).loss.backward()
    assert gradients["pooler.q_proj.weight"].abs().max() > 1e-5
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@torch.no_grad()
def test_a_flat_batch_has_the_embeddings_of_clip(tiny_clip_config, name):
    config = copy.deepcopy(tiny_clip_config)
    config.text_config.max_position_embeddings = 64
    model = new_model(tiny_clip_config, use_long_text_path=False)
    clip = CLIPModel(config).eval()
    assert not clip.load_state_dict(model.state_dict(), strict=False).missing_keys
    for either in (model, clip):
        either.set_attn_implementation(name)
    batch = flat_batch()
    outputs = model(**batch)
    images = clip.get_image_features(batch["pixel_values"]).pooler_output
    torch.testing.assert_close(outputs.image_embeds, F.normalize(images), rtol=0, atol=1e-5)
    for text, length in enumerate(LENGTHS):
        # Alone, without padding.
        features = clip.get_text_features(batch["input_ids"][text : text + 1, :length]).pooler_output
        torch.testing.assert_close(outputs.text_embeds[text : text + 1], F.normalize(features), rtol=0, atol=1e-5)


def test_every_attention_goes_through_the_interface(model):
    seen = []

    def counting(module, *args, **kwargs):
        seen.append(module)
        return sdpa_attention_forward(module, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("counting", counting)
    model.set_attn_implementation("counting")
    with torch.no_grad():
        model(**flat_batch())
    expected = {module for module in model.modules() if isinstance(module, CLIPAttention | TextConditionedPooler)}
    assert set(seen) == expected and len(seen) == len(expected) == 5


# It compiles a kernel for each shape.
@pytest.mark.stress
def test_flex_attention(model, expected):
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match="must be 'sdpa' or 'eager' for a gradient on a CPU"):
        model(**flat_batch())
    assert_equal_uses(model, expected)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_needs_a_gpu(model, name):
    set_by_hand(model, name)
    batch = flat_batch()
    sentence = f"must be 'sdpa' or 'eager' on a CPU, but is '{name}'"
    for use in (
        lambda: model(**batch),
        lambda: model.get_patch_features(batch["pixel_values"]),
        lambda: model.encode_texts(batch["input_ids"]),
    ):
        with pytest.raises(ValueError, match=sentence):
            use()


class TestVarlen:
    """`torch_varlen`, torch's kernel for variable lengths, which works on GPUs."""

    @pytest.fixture(autouse=True)
    def has_kernel(self):
        pytest.importorskip("torch.nn.attention.varlen")

    @pytest.fixture
    def plain_kernel(self, monkeypatch):
        """The kernel in plain torch, wherever the model is."""
        calls = []

        def varlen_attn(query, key, value, starts, _starts, longest, _longest, *, scale, window_size):
            assert window_size == (-1, 0) and starts.dtype == torch.int32 and starts[-1] == len(query)
            calls.append(starts)
            parts = []
            for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
                assert 0 <= end - start <= longest
                part = [tensor[start:end].transpose(0, 1) for tensor in (query, key, value)]
                parts.append(F.scaled_dot_product_attention(*part, is_causal=True, scale=scale).transpose(0, 1))
            return torch.cat(parts)

        kernel = SimpleNamespace(varlen_attn=varlen_attn)
        monkeypatch.setattr(attention_beta_clip, "import_module", lambda name: kernel)
        monkeypatch.setattr(attention_beta_clip, "_problem_of_varlen", lambda *_: None)
        return calls

    def test_packed_texts_take_the_kernel(self, model, expected, plain_kernel):
        model.set_attn_implementation("torch_varlen")
        assert_equal_uses(model, expected)
        assert len(plain_kernel) >= 4

    def test_it_can_be_asked_for_when_a_model_is_loaded(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = BetaCLIPModel.from_pretrained(tmp_path, attn_implementation="torch_varlen")
        assert loaded.text_model.config._attn_implementation == "torch_varlen"
        # A plain batch takes SDPA.
        ids = flat_batch()["input_ids"]
        with torch.no_grad():
            features = loaded.eval().get_text_features(ids).pooler_output
            assert torch.equal(features, model.get_text_features(ids).pooler_output)

    def test_a_cpu_is_refused(self, model):
        model.set_attn_implementation("torch_varlen")
        with torch.no_grad(), pytest.raises(ValueError, match="must be 'sdpa' on a CPU, but is 'torch_varlen'"):
            model(**flat_batch())

    def test_where_the_kernel_works(self):
        def problem(device, dtype, dropout=0.0):
            return attention_beta_clip._problem_of_varlen(torch.empty(1, device=device, dtype=dropout_free), dropout)

        for dropout_free, dropout, expected in (
            (torch.bfloat16, 0.0, None),
            (torch.float16, 0.0, None),
            (torch.float32, 0.0, "in torch.float32"),
            (torch.bfloat16, 0.1, "with dropout"),
        ):
            assert problem("meta", dropout_free, dropout) == expected


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states"])
def test_what_towers_compute_is_refused_with_an_alternative(model, name):
    with pytest.raises(ValueError, match=f"{name} must be False for a batch with image_index.*without image_index"):
        model(**flat_batch(), **{name: True})
    if name == "output_attentions":
        model.set_attn_implementation("eager")
    setattr(model.config, name, True)
    with pytest.raises(ValueError, match=f"{name} must be False for a batch with image_index"):
        model(**flat_batch())
    plain = {"input_ids": flat_batch()["input_ids"][:3], "pixel_values": flat_batch()["pixel_values"]}
    assert END in plain["input_ids"]
    setattr(model.config, name, False)
    with torch.no_grad():
        outputs = model(**plain, **{name: True})
    returned = name.removeprefix("output_")
    assert len(outputs.text_model_output[returned]) >= 2
