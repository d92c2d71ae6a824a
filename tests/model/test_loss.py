import itertools
from unittest.mock import Mock

import pytest
import torch
from torch.nn import functional as F

import reference
from beta_clip_hf import beta_cal_loss, clip_loss, hard_negative_loss, region_loss
from beta_clip_hf.model import logit_tiles_beta_clip, paired_rows_beta_clip
from beta_clip_hf.model.gather_beta_clip import Gather, OneProcess, adapted_gather


IMAGE_INDEX = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
SCALE = 1 / 0.07


def embeddings(n: int, width: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, width, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


@pytest.fixture(autouse=True, params=["dense", "tiled"])
def path(request, monkeypatch):
    """Every test of this file holds for both ways to compute the losses: dense, and in tiles of 4 × 4 at most."""
    monkeypatch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", float("inf") if request.param == "dense" else 0)
    monkeypatch.setattr(logit_tiles_beta_clip, "CPU_TILE", 4)
    return request.param


V, U = embeddings(len(IMAGE_INDEX), seed=1), embeddings(len(IMAGE_INDEX), seed=2)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_beta_cal_equals_the_paper_in_loops(kind, beta):
    expected = reference.beta_cal_loss(V, U, IMAGE_INDEX, SCALE, beta, kind)
    loss = beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=SCALE, beta=beta, kind=kind)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss_fn", [clip_loss, region_loss])
def test_clip_and_region_loss_equal_the_paper_in_loops(loss_fn):
    assert loss_fn(V, U, logit_scale=SCALE).item() == pytest.approx(reference.clip_loss(V, U, SCALE), rel=1e-12)


def test_region_loss_with_text_ids_equals_the_paper_in_loops():
    text_ids = [5, 2, 5, 9, 2, 5, 1, 1, 7, 5]
    expected = reference.region_loss(V, U, SCALE, text_ids)
    loss = region_loss(V, U, logit_scale=SCALE, text_id_R=torch.tensor(text_ids))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert loss < region_loss(V, U, logit_scale=SCALE) - 0.1


def test_hard_negative_loss_equals_the_paper_in_loops_on_ragged_lists():
    regions, texts = embeddings(4, seed=3), embeddings(9, seed=4)
    index = torch.tensor([0, 0, 2, 2, 2, 2, 3, 3, 3])  # region 1 is not flagged
    expected = reference.hard_negative_loss(regions, texts, index, SCALE)
    assert hard_negative_loss(regions, texts, index, logit_scale=SCALE).item() == pytest.approx(expected, rel=1e-12)
    assert hard_negative_loss(regions, texts, index, logit_scale=SCALE).item() > 0.1


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_beta_cal_is_blind_to_the_order_of_texts_and_to_the_names_of_images(kind):
    loss = beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=SCALE, kind=kind)
    order = torch.randperm(len(V), generator=torch.Generator().manual_seed(0))
    shuffled = beta_cal_loss(V[order], U[order], IMAGE_INDEX[order] * 7 - 3, logit_scale=SCALE, kind=kind)
    assert shuffled.item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_beta_cal_is_symmetric_in_the_two_modalities(kind):
    swapped = beta_cal_loss(U, V, IMAGE_INDEX, logit_scale=SCALE, kind=kind)
    assert swapped.item() == pytest.approx(
        beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=SCALE, kind=kind).item(), rel=1e-12
    )


def test_ce_with_beta_zero_is_info_nce_over_all_texts():
    loss = beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=SCALE, beta=0.0)
    assert loss.item() == pytest.approx(clip_loss(V, U, logit_scale=SCALE).item(), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_ce_with_one_text_per_image_is_clip_loss(beta):
    loss = beta_cal_loss(V, U, torch.arange(len(V)), logit_scale=SCALE, beta=beta)
    assert loss.item() == pytest.approx(clip_loss(V, U, logit_scale=SCALE).item(), rel=1e-12)


def test_beta_matters_where_an_image_has_several_texts():
    values = [
        beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=SCALE, beta=beta, kind=kind)
        for kind, beta in itertools.product(("ce", "bce"), (0, 0.5, 1))
    ]
    assert len({round(value.item(), 6) for value in values}) == 6


# Texts 0, 4, 6 and 9 are the same on three images, and 1 and 2 on one.
TEXT_ID = torch.tensor([7, -3, -3, 5, 7, 8, 7, 1, 0, 7])


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_the_same_text_of_another_image_is_left_out(kind, beta):
    expected = reference.beta_cal_loss(V, U, IMAGE_INDEX, SCALE, beta, kind, TEXT_ID.tolist())
    options = {"logit_scale": SCALE, "beta": beta, "kind": kind}
    loss = beta_cal_loss(V, U, IMAGE_INDEX, text_id_T=TEXT_ID, **options)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert loss < beta_cal_loss(V, U, IMAGE_INDEX, **options) - 0.01
    # Two images whose texts are all different, or the texts of one image, are as without ids.
    different = beta_cal_loss(V, U, IMAGE_INDEX, text_id_T=torch.arange(10).flip(0), **options)
    siblings = beta_cal_loss(V, U, IMAGE_INDEX, text_id_T=IMAGE_INDEX, **options)
    for same in (different, siblings):
        assert same.item() == pytest.approx(beta_cal_loss(V, U, IMAGE_INDEX, **options).item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_gradcheck_with_texts_left_out(kind):
    leaves = [x[:7].clone().requires_grad_() for x in (V, U)]

    def function(v, u):
        return beta_cal_loss(v, u, IMAGE_INDEX[:7], logit_scale=3.0, kind=kind, text_id_T=TEXT_ID[:7])

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_a_batch_of_one_text_has_no_negatives(kind):
    index, text_id = torch.arange(10), torch.zeros(10, dtype=torch.long)
    v = V.clone().requires_grad_()
    loss = beta_cal_loss(v, U, index, logit_scale=SCALE, kind=kind, text_id_T=text_id)
    if kind == "ce":
        assert loss.item() == pytest.approx(0, abs=1e-14)
    else:
        own_pairs = SCALE * (V * U).sum(dim=1)
        assert loss.item() == pytest.approx(-F.logsigmoid(own_pairs).sum().item() / 100)
    loss.backward()
    assert v.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_a_wrong_pairing_costs_more(kind):
    right = beta_cal_loss(U, U, IMAGE_INDEX, logit_scale=SCALE, kind=kind)
    wrong = beta_cal_loss(U.roll(3, dims=0), U, IMAGE_INDEX, logit_scale=SCALE, kind=kind)
    assert wrong > right + 0.1


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("kind", ["clip", "region", "ce", "bce"])
def test_the_path_is_chosen_by_the_number_of_logits(path, kind, rows, monkeypatch):
    """Rows² logits against a limit of 9: only what exceeds it is tiled."""
    if path == "tiled":
        monkeypatch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", 9)
    spies = []
    for name in ("tiled_contrast", "tiled_sigmoid"):
        spy = Mock(wraps=getattr(paired_rows_beta_clip, name))
        monkeypatch.setattr(paired_rows_beta_clip, name, spy)
        spies.append(spy)
    if kind in ("ce", "bce"):
        loss = beta_cal_loss(V[:rows], U[:rows], IMAGE_INDEX[:rows], logit_scale=SCALE, kind=kind)
    else:
        loss = {"clip": clip_loss, "region": region_loss}[kind](V[:rows], U[:rows], logit_scale=SCALE)
    assert sum(spy.call_count for spy in spies) == (path == "tiled" and rows == 4)
    assert loss.ndim == 0 and loss > 0.1


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_gradcheck_of_beta_cal(kind):
    leaves = [x[:5].clone().requires_grad_() for x in (V, U)] + [
        torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ]

    def function(v, u, s):
        return beta_cal_loss(v, u, IMAGE_INDEX[:5], logit_scale=s, kind=kind)

    assert torch.autograd.gradcheck(function, leaves)
    grads = torch.autograd.grad(function(*leaves), leaves)
    assert all(grad.abs().max() > 1e-3 for grad in grads)


def test_gradcheck_of_the_other_losses():
    leaves = [x[:4].clone().requires_grad_() for x in (V, U)] + [
        torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ]
    index = torch.tensor([0, 0, 3, 3])
    assert torch.autograd.gradcheck(lambda v, u, s: clip_loss(v, u, logit_scale=s), leaves)
    assert torch.autograd.gradcheck(lambda v, u, s: region_loss(v, u, logit_scale=s, text_id_R=index), leaves)
    assert torch.autograd.gradcheck(lambda v, u, s: hard_negative_loss(v, u, index, logit_scale=s), leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype):
    v, u = V.to(dtype), U.to(dtype)
    losses = {
        "beta_cal": lambda a, b: beta_cal_loss(a, b, IMAGE_INDEX, logit_scale=100.0),
        "clip": lambda a, b: clip_loss(a, b, logit_scale=100.0),
        "hard": lambda a, b: hard_negative_loss(a, b, torch.tensor([0] * 5 + [1] * 5), logit_scale=100.0),
    }
    for loss in losses.values():
        exact = loss(v.double(), u.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, single = loss(v, u), loss(v.float(), u.float())
        assert half.dtype == single.dtype == torch.float32
        assert half.item() == pytest.approx(exact.item(), rel=1e-5)
        assert single.item() == pytest.approx(exact.item(), rel=1e-5)


def test_logits_of_a_hundred_do_not_overflow():
    assert clip_loss(U.float(), -U.float(), logit_scale=1000.0).isfinite()
    assert hard_negative_loss(
        U[:1].float(), -U[:4].float(), torch.zeros(4, dtype=torch.long), logit_scale=1000.0
    ).isfinite()


def test_an_empty_batch_gives_a_zero_with_a_gradient():
    empty, index = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, dtype=torch.long)
    regions, scale = torch.zeros(2, 4, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    for loss in (
        clip_loss(empty, empty, logit_scale=scale),
        region_loss(empty, empty, logit_scale=scale),
        beta_cal_loss(empty, empty, index, logit_scale=scale),
        beta_cal_loss(empty, empty, index, logit_scale=scale, kind="bce"),
        hard_negative_loss(regions, empty, index, logit_scale=scale),
    ):
        assert loss.item() == 0
        assert torch.autograd.grad(loss, scale)[0].item() == 0


def test_gather_makes_one_batch_of_the_rows_of_all_processes():
    """A gather that appends another process's rows must give the loss of the whole batch."""
    here, there = slice(0, 4), slice(4, None)

    def gather(tensor):
        rest = {id(full): full[there] for full in (V, U, IMAGE_INDEX)}
        owner = next(
            full for full in (V, U, IMAGE_INDEX) if full.dtype == tensor.dtype and torch.equal(full[here], tensor)
        )
        return torch.cat([tensor, rest[id(owner)]])

    for kind in ("ce", "bce"):
        local = beta_cal_loss(V[here], U[here], IMAGE_INDEX[here], logit_scale=SCALE, kind=kind)
        loss = beta_cal_loss(V[here], U[here], IMAGE_INDEX[here], logit_scale=SCALE, kind=kind, gather=gather)
        whole = beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=SCALE, kind=kind)
        assert loss.item() == whole.item() != local.item()
    assert clip_loss(V[here], U[here], logit_scale=SCALE, gather=gather) == clip_loss(V, U, logit_scale=SCALE)


class HalfGather:
    """Gathers and sums, but cannot tell numbers of rows."""

    rank = 0

    def __call__(self, rows):
        return rows

    def sum(self, values):
        return values

    def logsumexp(self, values):
        return values


class CopiedGather(HalfGather):
    """Keeps the whole contract without its class, as with the code of a checkpoint: it has classes of its own."""

    def row_counts(self, *rows):
        return [list(rows)]

    def sized(self, counts):
        return self


def test_a_gather_keeps_the_whole_contract():
    for gather, missing in ((HalfGather(), "row_counts, sized"), (HalfGather, "row_counts, sized")):
        with pytest.raises(TypeError, match=f"must have all members of Gather .* but lacks {missing}"):
            clip_loss(V, U, logit_scale=SCALE, gather=gather)
    with pytest.raises(TypeError, match="must be a Gather or a function of a tensor, but is of type list"):
        clip_loss(V, U, logit_scale=SCALE, gather=[0])
    with pytest.raises(TypeError, match="abstract"):
        type("NoSum", (OneProcess,), {"sum": Gather.sum})()
    expected = clip_loss(V, U, logit_scale=SCALE)
    for gather in (OneProcess(), CopiedGather(), lambda rows: rows, torch.nn.Identity()):
        assert clip_loss(V, U, logit_scale=SCALE, gather=gather) == expected
        processes, _ = adapted_gather(gather, V)
        assert (processes is gather) == isinstance(gather, (OneProcess, CopiedGather))


def test_a_model_takes_no_plain_function_as_gather(tiny_model):
    for gather in (lambda rows: rows, HalfGather()):
        with pytest.raises(TypeError, match="gather must"), tiny_model.loss_context(gather=gather):
            pass


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], but is 1.5"):
        beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=1.0, beta=1.5)
    with pytest.raises(ValueError, match='kind must be "ce" or "bce", but is \'mse\''):
        beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=1.0, kind="mse")
    with pytest.raises(ValueError, match=r"image_index must have shape \(10,\)"):
        beta_cal_loss(V, U, IMAGE_INDEX[:-1], logit_scale=1.0)
    with pytest.raises(ValueError, match=r"text_id must have shape \(10,\), one per text, but is \(9,\)"):
        beta_cal_loss(V, U, IMAGE_INDEX, logit_scale=1.0, text_id_T=TEXT_ID[:-1])
    with pytest.raises(ValueError, match="image_embeds and text_embeds must have one shape"):
        clip_loss(V, U[:-1], logit_scale=1.0)
    with pytest.raises(ValueError, match="region_embeds and region_text_embeds"):
        region_loss(V, U[:-1], logit_scale=1.0)
    with pytest.raises(ValueError, match="hard_region_index must have shape"):
        hard_negative_loss(V, U, IMAGE_INDEX[:-1], logit_scale=1.0)
