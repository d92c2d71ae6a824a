"""What `torch.func`, `torch.jit` and PEFT's methods beside LoRA on blocks do with a flat batch."""

import pytest
import torch

from beta_clip_hf.model.text_rows_beta_siglip2 import plan_rows
from integration.uses import all_uses, assert_equal_uses, flat_batch, new_model, planned


@pytest.mark.parametrize("has_plan", [False, True])
def test_gradients_of_torch_func(tiny_clip_config, has_plan):
    model = new_model(tiny_clip_config)
    batch = planned(flat_batch(), model) if has_plan else flat_batch()
    batch["return_loss"] = True

    def loss(weights):
        return torch.func.functional_call(model, weights, (), batch).loss

    gradients = torch.func.grad(loss)({name: weight.detach() for name, weight in model.named_parameters()})
    model(**batch).loss.backward()
    for name, weight in model.named_parameters():
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(gradients[name], expected, rtol=1e-5, atol=1e-6)


def test_rows_of_siglip2_are_planned_inside_torch_func():
    ids = torch.tensor([[1, 2, 0], [3, 4, 5], [1, 2, 0]])
    plans = [plan_rows(ids, torch.tensor([0, 1, 0]), 2)]

    def summed(weight):
        # Inside the transform the ids are a tensor without storage.
        plans.append(plan_rows(ids + 0, torch.tensor([0, 1, 0]), 2))
        return weight.sum()

    torch.func.grad(summed)(torch.ones(2))
    outside, inside = plans
    assert inside.feature_T.tolist() == outside.feature_T.tolist() == [0, 1, 0]
    assert inside.short_U.tolist() == outside.short_U.tolist() == [0]
    assert inside.long_U.tolist() == outside.long_U.tolist() == [1]


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("check_trace", [True, False])
def test_a_trace_of_a_flat_batch_is_refused(tiny_clip_config, check_trace):
    # Without its check, a trace would return wrong features for texts of other lengths.
    with pytest.raises(ValueError, match=r"must not be traced by torch.jit.trace, .*: use torch.export"):
        torch.jit.trace(
            new_model(tiny_clip_config), example_kwarg_inputs=flat_batch(), strict=False, check_trace=check_trace
        )


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_prompts_are_refused(tiny_clip_config, kind):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = getattr(peft, kind)(num_virtual_tokens=4, task_type="FEATURE_EXTRACTION")
    model = peft.get_peft_model(new_model(tiny_clip_config), config)
    flat = flat_batch()
    plain = {"pixel_values": flat["pixel_values"], "input_ids": flat["input_ids"][:3]}
    for batch in (flat, plain):
        with pytest.raises(ValueError, match=r"must be left unset, because texts come as input_ids: .* such as LoRA"):
            model(**batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("LoraConfig", {"r": 4, "target_modules": ["position_embedding", "long_position_embedding"]}),
        ("LoraConfig", {"r": 4, "target_modules": ["token_embedding", "patch_embedding"]}),
        ("LoraConfig", {"r": 4, "target_modules": "all-linear"}),
        ("LoraConfig", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["position_embedding", "pooler"]}),
        ("LoraConfig", {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": {"token_embedding": [1, 2]}}),
        ("IA3Config", {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}),
        ("LoHaConfig", {"r": 4, "target_modules": ["q_proj", "v_proj"]}),
        ("VeraConfig", {"r": 4, "target_modules": ["q_proj", "v_proj"]}),
    ],
)
def test_adapters_on_any_layers(tiny_clip_config, tmp_path, kind, settings):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(new_model(tiny_clip_config), getattr(peft, kind)(**settings))
    model(**flat_batch(), return_loss=True).loss.backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert trained and all(weight.grad is not None for weight in trained)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in trained:
            weight.add_(0.02 * torch.randn_like(weight))
        expected = all_uses(model.eval(), flat_batch())
        before = all_uses(new_model(tiny_clip_config), flat_batch())
    field = "plan: contextualized_embeds"
    assert (expected[field] - before[field]).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(new_model(tiny_clip_config), tmp_path).eval()
    assert_equal_uses(loaded, expected)
    assert_equal_uses(loaded.merge_and_unload().eval(), expected, tolerance=1e-4)
