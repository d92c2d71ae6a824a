"""Two processes with ragged texts against one with all of them: the gather, the model, whole runs."""

import warnings
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf import BetaCLIPConfig
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes
from training.tiny_runs import (
    TensorCollator,
    TensorRows,
    accumulated_gradients,
    new_model,
    new_trainer,
    weights,
)


pytestmark = pytest.mark.slow


# Of `TensorRows`: 0 and 3 have a caption only, so in the second case one process has no phrase at all.
PARTS = {"ragged": ([0, 1, 2], [4, 5]), "captions only in one": ([0, 3], [1, 2, 5])}
RUN = {"rows": 16, "max_steps": 4, "max_grad_norm": 1.0, "train_sampling_strategy": "sequential"}
# Adam divides a gradient by its size: without this, rounding moves a weight without a gradient by a whole step.
RUN |= {"adam_epsilon": 1e-4}


def in_process(rank, config, folder):
    settings = {"per_device_train_batch_size": 2}
    return {
        "gather": gather_in_process(rank),
        "model": {
            case: model_gradients(config, parts[rank], ProcessGather(), wrap=DistributedDataParallel)
            for case, parts in PARTS.items()
        },
        "run": run(config, folder, **settings),
        "accumulated": accumulated_gradients(config, folder, per_device_train_batch_size=2),
        "checkpointed": checkpointed(config, folder, per_device_train_batch_size=2),
        "local": run(config, folder, **settings, gather_across_processes=False, max_steps=1),
    }


@pytest.fixture(scope="module")
def config(tiny_clip_config):
    values = tiny_clip_config.to_dict()
    return BetaCLIPConfig(text_config=values["text_config"], vision_config=values["vision_config"], projection_dim=32)


@pytest.fixture(scope="module")
def found_by_rank(config, tmp_path_factory):
    return run_processes(in_process, config, str(tmp_path_factory.mktemp("two")))


def gather_in_process(rank):
    gather = ProcessGather()
    rows = (3, 0)[rank]
    results = {"rank": gather.rank, "counts": gather.row_counts(rows, rank + 5), "world_size": gather.world_size}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool):
        results[str(dtype)] = gather(torch.full((rows, 2), rank + 1).to(dtype))
    constant = torch.ones(rows, 1)  # no gradient of its own: must not leave the other process waiting
    leaf = torch.ones(rows + 1, 1, requires_grad=True)
    gathered = gather(leaf if rank == 0 else constant)
    (gathered * torch.arange(1.0, len(gathered) + 1)[:, None]).sum().backward()
    results["gradient"] = leaf.grad
    with torch.no_grad():
        results["no_grad"] = gather(leaf).requires_grad
    with patch.object(dist, "get_backend_config", lambda group: "cuda:nccl"):  # as where the CPU has no way of its own
        beside = ProcessGather()
        results["beside"] = [beside.row_counts(rows, step) for step in range(2)], dist.get_backend(beside._cpu_group)
        assert beside._cpu_group is not dist.group.WORLD
    return results


def model_gradients(config, rows, gather, wrap=lambda model: model):
    found = {}
    for kind in ("ce", "bce"):
        model = new_model(config).double()
        model.config.alignment_loss = kind
        batch = TensorCollator()([TensorRows(6)[index] for index in rows])
        wrapped = wrap(model)  # DDP has to live on until the backward pass
        with model.loss_context(gather=gather):
            outputs = wrapped(**batch | {"pixel_values": batch["pixel_values"].double()})
        outputs.loss.backward()
        found[kind] = (
            {name: part.detach() for name, part in outputs.losses.items()},
            {name: parameter.grad for name, parameter in model.named_parameters()},
        )
    return found


def run(config, folder, **settings):
    trainer = new_trainer(config, folder, eval_rows=TensorRows(7, seed=3), **RUN | settings)
    trainer.train()
    metrics = {name: value for name, value in trainer.evaluate().items() if name.endswith(("_r1", "_r5", "_images"))}
    return weights(trainer.model), [record for record in trainer.state.log_history if "loss" in record], metrics


def checkpointed(config, folder, **settings):
    """Without β-CAL, so that no loss reaches the pooler."""
    with patch.object(config, "beta_cal_loss_weight", 0.0), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing. is deprecated")  # its new name is unknown to 5.17
        return run(config, folder, **settings, gradient_checkpointing=True)


def test_gather_of_two_processes(found_by_rank):
    for rank, results in enumerate(found_by_rank):
        found = results["gather"]
        assert (found["world_size"], found["rank"], found["counts"]) == (2, rank, [[3, 5], [0, 6]])
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool):
            assert found[str(dtype)].dtype == dtype
            assert torch.equal(found[str(dtype)], torch.full((3, 2), 1).to(dtype))
        assert found["no_grad"] is False
        assert found["beside"] == ([[[3, step], [0, step]] for step in range(2)], "gloo")
        if rank == 0:  # the loss of each of the two processes has the weights 1, 2, 3, 4
            assert found["gradient"].flatten().tolist() == [2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("case", PARTS)
def test_gradients_under_ddp_are_those_of_one_process(found_by_rank, config, case):
    expected = model_gradients(config, [*PARTS[case][0], *PARTS[case][1]], None)
    for kind, (losses, gradients) in expected.items():
        assert sum(gradient.abs().max() > 1e-4 for gradient in gradients.values()) > 0.8 * len(gradients)
        for found in found_by_rank:
            losses_here, gradients_here = found["model"][case][kind]
            assert losses_here.keys() == losses.keys() == {"clip_loss", "beta_cal_loss"}
            for name in losses:
                torch.testing.assert_close(losses_here[name], losses[name], rtol=0, atol=1e-12)
            for name in gradients:
                torch.testing.assert_close(gradients_here[name], gradients[name], rtol=0, atol=1e-10)


def test_a_run_of_two_processes_is_that_of_one_with_twice_the_batch(found_by_rank, config, tmp_path):
    expected_weights, expected_log, expected_metrics = run(config, tmp_path)
    untrained = weights(new_model(config))
    for found in found_by_rank:
        found_weights, log, metrics = found["run"]
        assert metrics == expected_metrics and metrics["eval_images"] == 7
        for name, value in expected_weights.items():
            torch.testing.assert_close(found_weights[name], value, rtol=1e-3, atol=2e-4)
        for record, expected in zip(log, expected_log, strict=True):
            for name in ("loss", "clip_loss", "beta_cal_loss", "grad_norm", "learning_rate", "pooler_learning_rate"):
                assert record[name] == pytest.approx(expected[name], rel=1e-3)
    moved = max((value - untrained[name]).abs().max() for name, value in expected_weights.items())
    assert moved > 20 * 2e-4  # a comparison with room to fail


def test_checkpointing_where_no_loss_reaches_some_parameters(found_by_rank, config, tmp_path):
    _, expected, _ = checkpointed(config, tmp_path, per_device_train_batch_size=4)
    for found in found_by_rank:
        _, log, _ = found["checkpointed"]
        assert [record["loss"] for record in log] == pytest.approx([record["loss"] for record in expected], rel=1e-3)
        assert len(log) == RUN["max_steps"] and "beta_cal_loss" not in log[0]


def test_accumulation_in_two_processes(found_by_rank, config, tmp_path):
    expected = accumulated_gradients(config, tmp_path, per_device_train_batch_size=4)
    for found in found_by_rank:
        for name, gradient in expected.items():
            torch.testing.assert_close(found["accumulated"][name], gradient, rtol=0, atol=1e-12)


def test_local_losses_are_the_mean_of_the_processes(found_by_rank, config):
    expected = []
    for rows in ([0, 1], [2, 3]):
        model = new_model(config)
        with torch.no_grad():
            expected.append(model(**TensorCollator()([TensorRows(16)[index] for index in rows])).loss.item())
    for found in found_by_rank:
        (record,) = found["local"][1]
        assert record["loss"] == pytest.approx(sum(expected) / 2, rel=1e-4)
        assert record["loss"] != pytest.approx(found["run"][1][0]["loss"], rel=1e-2)


def test_one_process_is_the_identity():
    gather, rows = ProcessGather(), torch.randn(3, 2, requires_grad=True)
    assert gather(rows) is rows
    assert (gather.row_counts(3, 4), gather.rank, gather.world_size) == ([[3, 4]], 0, 1)


def test_a_scalar_cannot_be_gathered():
    with pytest.raises(ValueError, match="at least one axis"):
        ProcessGather()(torch.tensor(1.0))
