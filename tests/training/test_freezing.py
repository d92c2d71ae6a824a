"""Frozen parts stay as they are and cost nothing in the backward pass; a frozen model is an error."""

import pytest
import torch

from beta_clip_hf.training.parameters.freezing import PARTS, freeze_parts, parts_to_freeze
from integration.uses import flat_batch
from integration.uses import new_model as new_full_model
from training.tiny_runs import Spy, TensorRows, new_model, new_trainer, weights


FIRST_VISION = ("vision_model.embeddings.", "vision_model.pre_layrnorm.", "vision_model.encoder.layers.0.")
FIRST_TEXT = ("text_model.embeddings.", "text_model.encoder.layers.0.")
# The beginnings of the names of frozen parameters.
FROZEN = {
    "vision": ("vision_model.", "visual_projection."),
    "text": ("text_model.", "text_projection.", "long_text_projection."),
    "embeddings": ("vision_model.embeddings.", "text_model.embeddings."),
    "vision_embeddings": ("vision_model.embeddings.",),
    "text_embeddings": ("text_model.embeddings.",),
    "projections": ("visual_projection.", "text_projection.", "long_text_projection."),
    "pooler": ("pooler.",),
    "logit_scales": (
        "logit_scale", "pooler.logit_scale", "region_logit_scale", "hard_negative_logit_scale",
    ),
    "vision_but_last_1": FIRST_VISION,
    "text_but_last_1": FIRST_TEXT,
    "towers_but_last_1": (*FIRST_VISION, *FIRST_TEXT),
    "vision_but_last_2": FIRST_VISION[:2],
}  # fmt: skip


@pytest.mark.parametrize("name", FROZEN)
def test_each_name_freezes_its_parameters(tiny_clip_config, name):
    assert set(PARTS) <= FROZEN.keys()
    model = new_full_model(tiny_clip_config)
    freeze_parts(model, parts_to_freeze(name))
    frozen = {parameter for parameter, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {parameter for parameter, _ in model.named_parameters() if parameter.startswith(FROZEN[name])}
    assert frozen


@pytest.mark.slow
def test_frozen_weights_stay_and_the_others_move(tiny_config, tmp_path):
    # Weight decay would move a weight without a gradient, and a clamp a scale.
    trainer = new_trainer(
        tiny_config, tmp_path, max_steps=2, freeze=["vision", "text_embeddings", "logit_scales"], weight_decay=0.5,
        logit_scale_max=2.0, freeze_text_positions=True,
    )  # fmt: skip
    before = weights(trainer.model)
    trainer.train()
    after = weights(trainer.model)
    stays = ("vision_model.", "visual_projection.", "text_model.embeddings.", "logit_scale", "pooler.logit_scale")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in moved if name.startswith(stays)}
    # The bias of keys has no gradient in a softmax.
    still = {name for name in before if name not in moved and not name.startswith(stays)}
    assert all(name.endswith("k_proj.bias") for name in still)
    assert {"pooler.q_proj.weight", "text_projection.weight", "text_model.encoder.layers.0.mlp.fc1.weight"} <= moved
    for group in trainer.optimizer.param_groups:
        assert all(parameter.requires_grad for parameter in group["params"])


def kept_bytes(model):
    """The memory that one forward pass keeps for the backward pass, without the parameters."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**flat_batch(), return_loss=True).loss
    assert loss.requires_grad
    return sum(kept.values())


def test_a_frozen_tower_keeps_nothing_for_the_backward_pass(tiny_clip_config):
    sizes = {}
    for names in ((), ("vision_but_last_1",), ("vision",), ("vision", "text")):
        model = new_full_model(tiny_clip_config).train()
        freeze_parts(model, names)
        sizes[names] = kept_bytes(model)
    assert sizes[()] > sizes["vision_but_last_1",] > sizes["vision",] > sizes["vision", "text"] > 0
    # What is left are the pooler, the projections and the losses.
    assert sizes["vision", "text"] < 0.4 * sizes[()]


@pytest.mark.slow
@pytest.mark.parametrize("contrast", [0, 8])
def test_frozen_towers_have_no_dropout(tiny_config, tmp_path, contrast):
    modes = []
    tiny_config.vision_config.attention_dropout = 0.5

    def remember(state, model, optimizer):
        tower = model.vision_model.encoder.layers[0].self_attn
        modes.append((tower.training, model.text_model.encoder.layers[0].self_attn.training, model.training))

    settings = {"freeze": "vision", "contrastive_batch_size": contrast, "max_steps": 2}
    trainer = new_trainer(tiny_config, tmp_path, callbacks=[Spy(remember)], eval_rows=TensorRows(4), **settings)
    trainer.train()
    assert modes == [(False, True, True)] * 2


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("visoin", r"freeze must name parts of the model \(vision, text, .+ or towers_but_last_N\), but has 'visoin'"),
        ("vision_but_last_0", "freeze must name parts of the model"),
        (["vision", 3], "freeze must name parts of the model .+ but has 3"),
    ],
)
def test_an_unknown_name_is_an_error(tiny_config, tmp_path, freeze, message):
    with pytest.raises(ValueError, match=message):
        new_trainer(tiny_config, tmp_path, freeze=freeze)


def test_parts_that_a_model_lacks_are_an_error(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="at most the 2 blocks of the text tower to train, but names 3"):
        new_trainer(tiny_config, tmp_path, freeze="text_but_last_3")
    tiny_config.use_pooler = False
    with pytest.raises(ValueError, match="but it has no pooler"):
        new_trainer(tiny_config, tmp_path, freeze="pooler")


def test_nothing_to_train_is_an_error(tiny_config, tmp_path):
    message = r"must be left to train, but freeze=\['vision', 'text', 'pooler'\] leaves nothing: freeze less"
    with pytest.raises(ValueError, match=message):
        new_trainer(tiny_config, tmp_path, freeze=["vision", "text", "pooler"])
    new_trainer(tiny_config, tmp_path, freeze=["vision", "text"])


def test_a_model_that_the_trainer_makes_is_frozen_too(tiny_config, tmp_path):
    from beta_clip_hf import BetaCLIPTrainer

    template = new_trainer(tiny_config, tmp_path, freeze="vision")
    trainer = BetaCLIPTrainer(
        None,
        template.args,
        template.data_collator,
        eval_data_collator=template.eval_data_collator,
        model_init=lambda: new_model(tiny_config),
    )
    assert not any(parameter.requires_grad for parameter in trainer.model.vision_model.parameters())
    assert all(parameter.requires_grad for parameter in trainer.model.text_model.parameters())


@pytest.mark.parametrize("wrong", [True, 5, {"vision": 1}, ["nose"], [True]])
def test_freeze_names_parts(wrong):
    with pytest.raises(ValueError, match="freeze must name parts of the model"):
        parts_to_freeze(wrong)
