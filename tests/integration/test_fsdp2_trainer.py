"""The Trainer under FSDP2 on two processes: losses, gradients, steps, checkpoints and evaluations are those of DDP."""

import os

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from transformers import TrainerCallback

from beta_clip_hf import BetaCLIPModel, BetaCLIPTrainingArguments
from beta_clip_hf.training.distributed import whole_tensor
from ddp_helpers import run_processes
from training.tiny_runs import TensorCollator, TensorRows, new_model, new_trainer


has_fsdp2 = "fsdp_version" in FullyShardedDataParallelPlugin.__dataclass_fields__
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_fsdp2, reason="accelerate is too old for FSDP2")]

STEPS = 4
RUN = {"rows": 16, "max_steps": STEPS, "max_grad_norm": 1.0, "train_sampling_strategy": "sequential"}
# Adam divides a gradient by its size: without this, rounding moves a weight without a gradient by a whole step.
RUN |= {"adam_epsilon": 1e-4, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2}
FSDP = {"fsdp": True}
SHARDED = {"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}


class RegionCollator(TensorCollator):
    """A box and its text for each row with more than a caption, so that a process may have no boxes at all."""

    def __call__(self, rows):
        batch = super().__call__(rows)
        with_box = [image for image, row in enumerate(rows) if len(row["texts"]) > 1]
        texts = [rows[image]["texts"][1] for image in with_box]
        if texts:
            batch["boxes"] = torch.tensor([[0.1, 0.2, 0.7, 0.8]]).repeat(len(texts), 1)
            batch["region_image_index"] = torch.tensor(with_box)
            batch["region_input_ids"] = torch.tensor(texts)
        return batch


class FirstGradients(TrainerCallback):
    def __init__(self):
        self.by_name = {}

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step == 0:
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    self.by_name[name] = whole_tensor(parameter.grad).clone()


def train(config, folder, resume_from=None, **settings):
    gradients = FirstGradients()
    trainer = new_trainer(config, folder, eval_rows=TensorRows(5, seed=3), callbacks=[gradients], **{**RUN, **settings})
    trainer.data_collator = RegionCollator()
    before = recalls(trainer.evaluate())
    trainer.train(resume_from_checkpoint=resume_from)
    weights = {name: whole_tensor(value).detach().clone() for name, value in trainer.model.state_dict().items()}
    after = recalls(trainer.evaluate())
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    log = [record for record in trainer.state.log_history if "loss" in record]
    shapes = {name: tuple(gradient.shape) for name, gradient in gradients.by_name.items()}
    result = {"log": log, "weights": weights, "gradients": gradients.by_name, "shapes": shapes}
    return result | {"before": before, "after": after, "kind": trainer.accelerator.distributed_type.value}


def recalls(metrics):
    return {name: value for name, value in metrics.items() if name.endswith(("_r1", "_r5", "_images"))}


def in_process(rank, config, folder):
    found = {}
    for name, kind in {"ddp": {}, "fsdp": FSDP, "sharded": SHARDED}.items():
        output = f"{folder}/{name}"
        saving = {"save_strategy": "steps", "save_steps": 2, "freeze_text_positions": True}
        found[name] = train(config, output, **kind, **saving)
        found[f"{name} resumed"] = train(config, output, f"{output}/checkpoint-2", **kind, **saving)
        found[f"{name} contrast"] = train(config, f"{output}_contrast", contrastive_batch_size=8, max_steps=2, **kind)
        # Half blocks, which sharded blocks do not have, round less often than the modules do.
        half = {"bf16": True, "half_blocks": False}
        found[f"{name} bf16"] = train(config, f"{output}_bf16", max_steps=1, **half, **kind)
    found["refusals"] = refusals(config, folder)
    return found


def refusals(config, folder):
    # As the runs that have saved the checkpoints: another setting would be refused first.
    frozen = {"freeze_text_positions": True}
    cases = {
        "fsdp1": lambda: train(config, folder, fsdp=True, fsdp_config={"version": 1}),
        "ram": lambda: train(config, folder, fsdp=True, fsdp_config={"cpu_ram_efficient_loading": True}),
        "activations": lambda: train(config, folder, fsdp=True, fsdp_config={"activation_checkpointing": True}),
        "compile": lambda: train(config, folder, fsdp=True, torch_compile=True),
        "ddp to fsdp": lambda: train(config, folder, f"{folder}/ddp/checkpoint-2", **frozen, **FSDP),
        "fsdp to ddp": lambda: train(config, folder, f"{folder}/fsdp/checkpoint-2", **frozen),
    }
    messages = {}
    for name, case in cases.items():
        # accelerate remembers FSDP in the environment.
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        with pytest.raises(ValueError) as caught:
            case()
        messages[name] = str(caught.value)
    return messages


@pytest.fixture(scope="module")
def config(both_systems_config):
    return both_systems_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found_by_rank(config, folder):
    return run_processes(in_process, config, str(folder))


@pytest.fixture(scope="module", params=["fsdp", "sharded"])
def kind(request):
    return request.param


def assert_equal_weights(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


def test_steps_are_those_of_ddp(found_by_rank, kind, config):
    untrained = new_model(config).state_dict()
    for found in found_by_rank:
        ddp, fsdp = found["ddp"], found[kind]
        assert (ddp["kind"], fsdp["kind"]) == ("MULTI_CPU", "FSDP")
        assert len(ddp["log"]) == len(fsdp["log"]) == STEPS
        for record, expected in zip(fsdp["log"], ddp["log"], strict=True):
            for name in ("loss", "clip_loss", "beta_cal_loss", "region_loss", "grad_norm", "logit_scale"):
                assert record[name] == pytest.approx(expected[name], rel=1e-5)
        gradients = {name: value for name, value in ddp["gradients"].items() if value.any()}
        assert len(gradients) > 90 and "pooler.logit_scale" in gradients and "region_logit_scale" in gradients
        for name, gradient in gradients.items():
            torch.testing.assert_close(fsdp["gradients"][name].view_as(gradient), gradient, rtol=0, atol=1e-5)
        assert_equal_weights(fsdp["weights"], ddp["weights"])
        assert fsdp["weights"]["logit_scale"] != untrained["logit_scale"]


def test_frozen_positions_stay(found_by_rank, kind, config):
    name = "text_model.embeddings.long_position_embedding.weight"
    untrained = new_model(config).state_dict()[name]
    for found in found_by_rank:
        assert torch.equal(found[kind]["weights"][name][:20], untrained[:20])
        assert not torch.equal(found[kind]["weights"][name][20:], untrained[20:])
        assert not found[kind]["gradients"][name][:20].any()


def test_evaluations_are_those_of_ddp(found_by_rank, kind):
    for found in found_by_rank:
        assert found[kind]["before"] == found["ddp"]["before"]
        assert found[kind]["after"] == found["ddp"]["after"]
        assert found[kind]["after"]["eval_images"] == 5


def test_saved_models_are_whole_and_those_of_ddp(found_by_rank, kind, folder):
    places = ["", "checkpoint-2", "checkpoint-4"]
    for place in places:
        expected = load_file(folder / "ddp" / place / "model.safetensors")
        assert_equal_weights(load_file(folder / kind / place / "model.safetensors"), expected)
    loaded = BetaCLIPModel.from_pretrained(folder / kind)
    assert loaded.logit_scale.shape == loaded.pooler.logit_scale.shape == ()
    assert_equal_weights(loaded.state_dict(), found_by_rank[0][kind]["weights"], 0)


def test_a_resumed_run_goes_on_as_it_would_have(found_by_rank, kind):
    for found in found_by_rank:
        assert [record["step"] for record in found[f"{kind} resumed"]["log"]] == [1, 2, 3, 4]
        assert_equal_weights(found[f"{kind} resumed"]["weights"], found[kind]["weights"], 1e-7)


def test_a_contrast_over_micro_batches(found_by_rank, kind):
    for found in found_by_rank:
        ddp, fsdp = found["ddp contrast"], found[f"{kind} contrast"]
        for record, expected in zip(fsdp["log"], ddp["log"], strict=True):
            assert record["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert_equal_weights(fsdp["weights"], ddp["weights"])
        assert ddp["log"][0]["loss"] > found["ddp"]["log"][0]["loss"] + 0.1


def test_half_precision_is_autocast(found_by_rank, kind):
    for found in found_by_rank:
        loss, expected = (found[f"{name} bf16"]["log"][0]["loss"] for name in (kind, "ddp"))
        assert loss == pytest.approx(expected, rel=1e-5)
        # bfloat16 plays a part at all.
        assert loss != pytest.approx(found["ddp"]["log"][0]["loss"], rel=1e-6)
        assert all(value.dtype == torch.float32 for value in found[f"{kind} bf16"]["weights"].values())


def test_what_cannot_work_is_refused(found_by_rank):
    expected = {
        "fsdp1": "fsdp_version must be 2, but is 1",
        "ram": "cpu_ram_efficient_loading must be false",
        "activations": "use vision_checkpointing and text_checkpointing",
        "compile": "torch_compile must be False under FSDP2",
        "ddp to fsdp": "was written without FSDP2",
        "fsdp to ddp": "was written under FSDP2",
    }
    for found in found_by_rank:
        for name, part in expected.items():
            assert part in found["refusals"][name]


def test_processes_of_a_launcher_are_joined_without_an_accelerator(tmp_path):
    assert run_processes(world_size_of_arguments, str(tmp_path)) == [2, 2]


def world_size_of_arguments(rank, folder):
    # As torchrun starts a process: it says nothing of CPUs.
    os.environ.pop("ACCELERATE_USE_CPU", None)
    return BetaCLIPTrainingArguments(folder).world_size
