"""The losses over 2 and 4 processes against one: values, gradients, what is sent, what is held, accumulated runs."""

import importlib
from contextlib import contextmanager
from itertools import accumulate, product

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from beta_clip_hf import BetaCLIPConfig, beta_cal_loss, clip_loss, region_loss
from beta_clip_hf.model import logit_tiles_beta_clip, paired_rows_beta_clip
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes
from model.test_tiled import LargestTensor, assert_close
from training.tiny_runs import TensorCollator, TensorRows, accumulated_gradients, new_model


pytestmark = pytest.mark.slow


WIDTH, SCALE = 8, 5.0
# Rows of each process. The group of two is of ranks 1 and 3: places within it are not ranks.
GROUPS = {2: [1, 3], 4: [0, 1, 2, 3]}
COUNTS = {
    "two, ragged": (7, 4),
    "two, one empty": (0, 6),
    "four, ragged": (5, 1, 3, 2),
    "four, one empty": (4, 0, 6, 1),
    "four, all empty": (0, 0, 0, 0),
}
KINDS = [("clip", 0.0), ("region", 0.0), ("ce", 0.5), ("ce", 0.0), ("bce", 0.5), ("bce", 1.0)]
# The gather, and the number of logits from which on a loss is tiled. A plain callable knows no numbers of rows.
WAYS = {"dense": ("sizes known", torch.inf), "shared": ("sizes known", 0), "whole, tiled": ("plain", 0)}
NAMES = ("all_gather", "all_gather_into_tensor", "all_gather_single", "all_reduce", "broadcast", "barrier")
NAMES += ("reduce_scatter", "reduce_scatter_tensor", "reduce_scatter_single", "all_to_all", "all_to_all_single")


def rows_of(counts):
    """Raw embeddings of all processes, the image and the text id of each row, and the rows of each process."""
    total, generator = sum(counts), torch.Generator().manual_seed(sum(counts))
    raw = [torch.randn(total, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2)]
    parts = [slice(stop - count, stop) for count, stop in zip(counts, accumulate(counts), strict=True)]
    image_index = torch.cat([100 * place + torch.arange(count) // 2 for place, count in enumerate(counts)])
    return raw, image_index, torch.arange(total) % 3, parts


def loss_of(kind, beta, left, right, image_index, text_id, scale, gather):
    units = [F.normalize(side, dim=-1) for side in (left, right)]
    if kind == "clip":
        return clip_loss(*units, logit_scale=scale, gather=gather)
    if kind == "region":
        return region_loss(*units, logit_scale=scale, text_id_R=text_id, gather=gather)
    return beta_cal_loss(*units, image_index, logit_scale=scale, beta=beta, kind=kind, gather=gather)


def value_and_gradients(kind, beta, raw, image_index, text_id, gather=None):
    leaves = [side.clone().requires_grad_() for side in raw]
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    loss = loss_of(kind, beta, *leaves, image_index, text_id, scale, gather)
    loss.backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves), scale.grad]


@contextmanager
def tiled_from(limit, side=3):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", limit)
        patch.setattr(logit_tiles_beta_clip, "CPU_TILE", side)
        yield


@contextmanager
def counted():
    """The collective operations within: their name, and the bytes of what is gathered, summed or scattered."""
    calls = []

    def counting(name, original):
        def call(*tensors, **kwargs):
            whole = tensors[1] if name.startswith("reduce_scatter") else tensors[0]
            parts = whole if isinstance(whole, list) else [whole]
            operation = next(short for short in ("all_gather", "reduce_scatter", "all_reduce", name) if short in name)
            calls.append((operation, sum(part.numel() * part.element_size() for part in parts)))
            return original(*tensors, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            if hasattr(dist, name):
                patch.setattr(dist, name, counting(name, getattr(dist, name)))
        yield calls


def in_process(rank, config, folder):
    groups = {size: dist.new_group(ranks) for size, ranks in GROUPS.items()}
    return {
        "losses": losses_in_process(rank, groups),
        "sent": {case: sent_in_process(rank, config, *case) for case in product(("ce", "bce"), LIMITS)},
        "largest": {way: largest_in_process(rank, way) for way in WAYS},
        "accumulated": accumulated_in_process(config, folder),
    }


def losses_in_process(rank, groups):
    found = {}
    for case, counts in COUNTS.items():
        if rank not in GROUPS[len(counts)]:
            continue
        raw, image_index, text_id, parts = rows_of(counts)
        sizes_known = ProcessGather(groups[len(counts)])
        own_rows = parts[sizes_known.rank]
        gathers = {"sizes known": sizes_known, "plain": lambda tensor, gather=sizes_known: gather(tensor)}
        for way, (gather, limit) in WAYS.items():
            for kind, beta in KINDS:
                rows = ([side[own_rows] for side in raw], image_index[own_rows], text_id[own_rows])
                with tiled_from(limit):
                    found[case, way, kind, beta] = value_and_gradients(kind, beta, *rows, gathers[gather])
    return found


# The rows of `TensorRows` of each process, and logits beyond which a loss is tiled: none, those of β-CAL, all.
BATCH, LIMITS = ([0, 1], [3, 2], [4, 6], [5]), (torch.inf, 7**2, 0)


def sent_in_process(rank, config, kind, limit):
    """What one step sends for the losses, forwards and backwards; the averaging of gradients is DDP's own business."""
    model = new_model(config)
    model.config.alignment_loss = kind
    wrapped = DistributedDataParallel(model)
    batch = TensorCollator()([TensorRows(7)[index] for index in BATCH[rank]])
    with tiled_from(limit):
        with counted() as forward, model.loss_context(gather=ProcessGather()):
            loss = wrapped(**batch).loss
        with counted() as backward:
            loss.backward()
    return forward, backward


def largest_in_process(rank, way):
    """Numbers in the largest tensor of loss and gradients, for each loss: 4 × 48 rows of width 8, tiles of 8 × 8."""
    raw, image_index, text_id, parts = rows_of((48, 48, 48, 48))
    own_rows, gather = parts[rank], ProcessGather()
    found = {}
    for kind, beta in KINDS:
        with tiled_from(WAYS[way][1], side=8), LargestTensor() as mode:
            own_raw = [side[own_rows] for side in raw]
            value_and_gradients(kind, beta, own_raw, image_index[own_rows], text_id[own_rows], gather)
        found[kind, beta] = mode.numbers
    return found


def accumulated_in_process(config, folder):
    with tiled_from(0):
        return accumulated_gradients(config, folder, per_device_train_batch_size=1)


@pytest.fixture(scope="module")
def config(tiny_clip_config):
    values = tiny_clip_config.to_dict()
    return BetaCLIPConfig(text_config=values["text_config"], vision_config=values["vision_config"], projection_dim=32)


@pytest.fixture(scope="module")
def found_by_rank(config, tmp_path_factory):
    return run_processes(in_process, config, str(tmp_path_factory.mktemp("four")), world_size=4)


@pytest.fixture(scope="module")
def weak_scaling(project_dir):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(project_dir / "benchmarks")
        return importlib.import_module("weak_scaling")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", COUNTS)
def test_values_and_gradients_are_those_of_one_process(found_by_rank, case, way):
    raw, image_index, text_id, parts = rows_of(COUNTS[case])
    ranks = GROUPS[len(parts)]
    for kind, beta in KINDS:
        with tiled_from(torch.inf):
            loss, left_grad, right_grad, scale_grad = value_and_gradients(kind, beta, raw, image_index, text_id)
        found = [found_by_rank[rank]["losses"][case, way, kind, beta] for rank in ranks]
        for value, *_ in found:
            torch.testing.assert_close(value, loss, rtol=0, atol=1e-12)
        # The mean over processes, as DDP takes it, of gradients that each process has of its own rows.
        _, left_parts, right_parts, scale_parts = zip(*found, strict=True)
        found_left, found_right = torch.cat(left_parts) / len(ranks), torch.cat(right_parts) / len(ranks)
        found_scale = sum(scale_parts) / len(ranks)
        if sum(COUNTS[case]):
            assert_close([found_left, found_right, found_scale], [left_grad, right_grad, scale_grad])
        else:
            assert loss == 0 and found_scale == 0


def test_only_the_shared_work_is_divided(found_by_rank):
    """Where every process computes the whole loss, each has the whole gradient of the scale."""
    for kind, beta in KINDS:
        by_way = {}
        for way in WAYS:
            results = [found["losses"]["four, ragged", way, kind, beta] for found in found_by_rank]
            by_way[way] = [scale_gradient.item() for *_, scale_gradient in results]
        for way in ("dense", "whole, tiled"):
            assert by_way[way] == pytest.approx([by_way["dense"][0]] * 4, rel=1e-12)
        shares = by_way["shared"]
        assert sum(shares) / 4 == pytest.approx(by_way["dense"][0], rel=1e-12)
        assert max(shares) - min(shares) > 0.1 * abs(by_way["dense"][0])


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_what_is_sent_is_what_the_formula_counts(found_by_rank, config, weak_scaling, kind, limit):
    images = [len(rows) for rows in BATCH]
    texts = []
    for rows in BATCH:
        texts.append(sum(1 + row % 3 for row in rows))
    expected = weak_scaling.step_collectives(images, texts, config.projection_dim, kind=kind, dense_limit=limit)
    for found in found_by_rank:
        forward, backward = found["sent"][kind, limit]
        assert sorted(forward) == sorted(expected.forward)
        assert sorted(backward) == sorted(expected.backward)


def test_bytes_of_a_ring(weak_scaling):
    """64 images with 36 texts on each of 8 processes: what the paper model of the benchmark starts from."""
    collectives = weak_scaling.step_collectives([64] * 8, [2304] * 8, 512)
    texts, images = 4 * 18432 * 512, 4 * 512 * 512  # the losses of images are whole on every process: both sides travel
    assert ("all_gather", texts) in collectives.forward and collectives.forward.count(("all_gather", images)) == 2
    assert collectives.backward.count(("reduce_scatter", texts)) == 1
    few = [("all_gather", 800), ("all_reduce", 80), ("reduce_scatter", 8)]
    assert weak_scaling.sent_bytes([weak_scaling.Collective(*operation) for operation in few], 8) == 847
    total = weak_scaling.sent_bytes(collectives.calls, 8)
    assert total == pytest.approx((2 * texts + 4 * images) * 7 / 8, rel=0.01)


def test_nothing_is_as_large_as_own_rows_times_all(found_by_rank):
    own_rows, all_rows = 48, 4 * 48
    for found in found_by_rank:
        for kind in KINDS:
            assert found["largest"]["dense"][kind] >= all_rows**2
            assert found["largest"]["shared"][kind] <= all_rows * WIDTH < own_rows * all_rows


def test_accumulated_gradients_are_those_of_one_process(found_by_rank, config, tmp_path):
    """Where the work is shared; `test_distributed.py` has the same of two processes that compute the whole loss."""
    expected = accumulated_gradients(config, tmp_path, per_device_train_batch_size=4)
    assert sum(gradient.abs().max() > 1e-4 for gradient in expected.values()) > 0.8 * len(expected)
    for found in found_by_rank:
        assert found["accumulated"].keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found["accumulated"][name], gradient, rtol=0, atol=1e-12)
