"""The learning rate of the pooler, and the frozen positions, under wrappers that change the names of parameters."""

import pytest
import torch

from beta_clip_hf.training.arguments import BetaCLIPTrainingArguments
from beta_clip_hf.training.callbacks.standard import ParameterBounds
from beta_clip_hf.training.parameters.groups import decayed_names, parameter_groups
from integration.uses import new_model


def with_lora(model):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    return peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["long_position_embedding"])
    )


class Wrapper(torch.nn.Module):
    """Puts a word before each name, as DDP does."""

    def __init__(self, model):
        super().__init__()
        self.module = model


WRAPPERS = {"none": lambda model: model, "module": Wrapper, "compile": torch.compile, "peft": with_lora}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_pooler_keeps_its_learning_rate(tiny_clip_config, tmp_path, wrap):
    args = BetaCLIPTrainingArguments(str(tmp_path), use_cpu=True, learning_rate=1e-5, pooler_learning_rate=0.5)
    model = wrap(new_model(tiny_clip_config))
    groups = parameter_groups(model, args, decayed_names(model))
    rates = {}
    for group in groups:
        rates |= dict.fromkeys(map(id, group["params"]), group["lr"])
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("pooler." in name for name in trained) and any("text_model." in name for name in trained)
    for name, parameter in trained.items():
        assert rates[id(parameter)] == (0.5 if "pooler." in name else 1e-5), name


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_long_table_is_the_frozen_one(tiny_clip_config, tmp_path, wrap):
    args = BetaCLIPTrainingArguments(str(tmp_path), use_cpu=True, freeze_text_positions=True)
    model = wrap(new_model(tiny_clip_config))
    bounds = ParameterBounds()
    bounds.on_train_begin(args, None, None, model=model)
    tables = [weight for name, weight in model.named_parameters() if "long_position_embedding" in name]
    assert any(bounds.table is table for table in tables)
