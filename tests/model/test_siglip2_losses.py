"""The losses of FG-CLIP 2 against plain loops, with any counts, tile by tile, and over two processes."""

import pytest
import torch
from torch.nn.functional import normalize

import reference
from beta_clip_hf import RankLoss, hard_contrast_loss, hard_negative_loss, intra_text_loss, rank_loss, sigmoid_loss
from beta_clip_hf.model import paired_rows_beta_clip
from beta_clip_hf.training.distributed import ProcessGather
from ddp_helpers import run_processes


INDEX = torch.tensor([0, 0, 0, 2, 2, 3, 5, 5, 5, 5])  # lists of any length, one of them without a negative


def rows(count, width=6):
    return normalize(torch.randn(count, width, dtype=torch.float64), dim=-1)


def gradients(loss, *tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(loss(*leaves), leaves)


@pytest.mark.parametrize("tiled", [False, True])
def test_sigmoid_loss(tiled, monkeypatch):
    images, texts = rows(7), rows(7)
    scale, bias = torch.tensor(9.0, dtype=torch.float64), torch.tensor([-3.0], dtype=torch.float64)

    def loss(images, texts, scale, bias):
        return sigmoid_loss(images, texts, logit_scale=scale, logit_bias=bias)

    dense = gradients(loss, images, texts, scale, bias)
    if tiled:
        monkeypatch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", 0)
    found = loss(images, texts, scale, bias)
    assert found.item() == pytest.approx(reference.sigmoid_loss(images, texts, 9.0, -3.0), rel=1e-12)
    for gradient, expected in zip(gradients(loss, images, texts, scale, bias), dense, strict=True):
        torch.testing.assert_close(gradient, expected)
        assert gradient.abs().max() > 1e-3
    assert loss(images[:0], texts[:0], scale, bias).item() == 0
    with pytest.raises(ValueError, match=r"must have one shape .* \(7, 6\) and \(6, 6\)"):
        loss(images, texts[:6], scale, bias)


def test_sigmoid_loss_is_that_of_transformers():
    images, texts = rows(5).float(), rows(5).float()
    logits = 11.0 * texts @ images.T - 4.0
    signs = 2 * torch.eye(5) - 1
    expected = -torch.nn.functional.logsigmoid(signs * logits).sum(dim=-1).mean()
    torch.testing.assert_close(sigmoid_loss(images, texts, logit_scale=11.0, logit_bias=-4.0), expected)


@pytest.mark.parametrize("count", [1, 2, 9, 30])
@pytest.mark.parametrize("leave_out", [False, True])
def test_intra_text_loss(count, leave_out):
    texts = rows(count)
    if count > 5:
        texts[4] = texts[1]  # the same text
        texts[5] = normalize(texts[2] + 0.05 * texts[3], dim=-1)  # nearly the same
    found = intra_text_loss(texts, leave_out_similar=leave_out)
    if count == 1:
        assert found.item() == 0
    else:
        assert found.item() == pytest.approx(reference.intra_text_loss(texts, leave_out), rel=1e-12)
    (gradient,) = gradients(lambda texts: intra_text_loss(texts, leave_out_similar=leave_out), texts)
    assert gradient.isfinite().all() and (count == 1 or gradient.abs().max() > 1e-3)


def test_intra_text_loss_can_be_differentiated_and_needs_two_axes(monkeypatch):
    texts = (0.3 * torch.randn(14, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(intra_text_loss, (texts,))
    whole = intra_text_loss(texts)
    monkeypatch.setattr("beta_clip_hf.model.loss_beta_siglip2._BLOCK", 5)
    torch.testing.assert_close(intra_text_loss(texts), whole)
    assert intra_text_loss(texts[:0]).item() == 0
    same = texts[:1].expand(4, 4)
    assert intra_text_loss(normalize(same, dim=-1), leave_out_similar=True).item() == 0
    with pytest.raises(ValueError, match=r"must have shape \(rows, width\), but are \(4,\)"):
        intra_text_loss(texts[0])


def test_hard_contrast_loss():
    regions, texts, scale = rows(6), rows(10), torch.tensor(7.0, dtype=torch.float64)

    def loss(regions, texts, scale):
        return hard_contrast_loss(regions, texts, INDEX, logit_scale=scale)

    found = loss(regions, texts, scale)
    assert found.item() == pytest.approx(reference.hard_contrast_loss(regions, texts, INDEX, 7.0), rel=1e-12)
    leaves = [tensor.requires_grad_() for tensor in (regions, texts, scale)]
    assert torch.autograd.gradcheck(loss, leaves)
    assert hard_contrast_loss(regions, texts[:0], INDEX[:0], logit_scale=scale).item() == 0
    with pytest.raises(ValueError, match=r"hard_region_index must have shape \(10,\)"):
        hard_contrast_loss(regions, texts, INDEX[:4], logit_scale=scale)


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_rank_loss(threshold):
    regions, texts = rows(6), rows(10)
    found, following = rank_loss(regions, texts, INDEX, logit_scale=7.0, threshold=threshold)
    expected = reference.rank_loss(regions, texts, INDEX, 7.0, threshold)
    assert (found.item(), following.item()) == pytest.approx(expected, rel=1e-12)
    leaves = [tensor.requires_grad_() for tensor in (regions, texts)]
    assert torch.autograd.gradcheck(
        lambda *rows: rank_loss(*rows, INDEX, logit_scale=7.0, threshold=threshold)[0], leaves
    )
    assert not following.requires_grad


@pytest.mark.parametrize("num_negatives", [0, 1, 4, 12])
@pytest.mark.parametrize("num_boxes", [0, 1, 5])
def test_any_counts_of_boxes_and_negatives(num_boxes, num_negatives):
    """Boxes are flagged in turns: of five, the first, the third and the last have a list."""
    index = torch.arange(0, num_boxes, 2).repeat_interleave(1 + num_negatives)
    regions, texts = rows(num_boxes), rows(len(index))
    contrast = hard_contrast_loss(regions, texts, index, logit_scale=7.0)
    pair = hard_negative_loss(regions, texts, index, logit_scale=7.0)
    rank, following = rank_loss(regions, texts, index, logit_scale=7.0, threshold=1.5)
    if num_boxes:
        assert contrast.item() == pytest.approx(reference.hard_contrast_loss(regions, texts, index, 7.0), abs=1e-12)
        assert pair.item() == pytest.approx(reference.hard_negative_loss(regions, texts, index, 7.0), abs=1e-12)
    else:
        assert contrast.item() == pair.item() == 0
    if num_boxes and num_negatives:
        expected = reference.rank_loss(regions, texts, index, 7.0, 1.5)
        assert (rank.item(), following.item()) == pytest.approx(expected, abs=1e-12)
    else:
        assert (rank.item(), following.item()) == (0.0, 1.5)
    tic = intra_text_loss(texts)
    assert tic.item() == pytest.approx(reference.intra_text_loss(texts) if len(index) else 0.0, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_sigmoid_loss_of_any_number_of_pairs(count):
    images, texts = rows(count), rows(count)
    found = sigmoid_loss(images, texts, logit_scale=9.0, logit_bias=-3.0)
    assert found.item() == pytest.approx(reference.sigmoid_loss(images, texts, 9.0, -3.0), rel=1e-12)


def test_the_threshold_is_clamped_and_stays_without_negatives():
    regions = torch.eye(2)
    _, high = rank_loss(regions, torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([0, 0]), logit_scale=40.0)
    _, low = rank_loss(
        regions, torch.tensor([[-1.0, 0], [1, 0]]), torch.tensor([0, 0]), logit_scale=40.0, threshold=3.0
    )
    assert (high.item(), low.item()) == (10.0, 0.0)
    for count in (0, 1):
        texts = regions[:count].clone().requires_grad_()
        loss, kept = rank_loss(regions, texts, torch.zeros(count, dtype=torch.long), logit_scale=4.0, threshold=2.5)
        assert (loss.item(), kept.item()) == (0.0, 2.5)
        loss.backward()


def test_the_module_keeps_the_threshold():
    regions, texts = rows(6).float(), rows(10).float()
    texts[[0, 3, 5, 6]] = regions[[0, 2, 3, 5]]
    module = RankLoss().train()
    expected, following = rank_loss(regions, texts, INDEX, logit_scale=7.0)
    assert torch.equal(module(regions, texts, INDEX, logit_scale=7.0), expected)
    torch.testing.assert_close(module.threshold, following)
    assert following > 0.1
    again = RankLoss()
    again.load_state_dict(module.state_dict())
    value = again.eval()(regions, texts, INDEX, logit_scale=7.0)
    torch.testing.assert_close(value, rank_loss(regions, texts, INDEX, logit_scale=7.0, threshold=following)[0])
    assert torch.equal(again.threshold, module.threshold)


# Places of the lists, and of the other rows, that each of two processes holds.
SPLITS = [(slice(0, 3), slice(0, 5), slice(0, 2)), (slice(3, 6), slice(5, 10), slice(2, 7))]


def all_losses(regions, texts, index, images, captions, gather=None):
    scale, bias = torch.tensor(7.0, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    hard = [regions, texts, index]
    rank, following = rank_loss(*hard, logit_scale=scale, threshold=1.0, gather=gather)
    losses = [
        sigmoid_loss(images, captions, logit_scale=scale, logit_bias=bias, gather=gather),
        intra_text_loss(captions, gather=gather),
        intra_text_loss(captions, leave_out_similar=True, gather=gather),
        hard_contrast_loss(*hard, logit_scale=scale, gather=gather),
        rank,
    ]
    leaves = [regions, texts, images, captions, scale, bias]
    total = sum(losses[1:], start=losses[0])
    return [loss.item() for loss in losses], following.item(), torch.autograd.grad(total, leaves)


def in_a_process(rank, operands, is_tiled):
    regions, texts, index, images, captions = operands
    region_rows, text_rows, image_rows = SPLITS[rank]
    if is_tiled:
        paired_rows_beta_clip.DENSE_LIMIT = 0
    rows_of_rank = [regions[region_rows], texts[text_rows], images[image_rows], captions[image_rows]]
    regions, texts, images, captions = (tensor.clone().requires_grad_() for tensor in rows_of_rank)
    index = index[text_rows] - region_rows.start
    return all_losses(regions, texts, index, images, captions, ProcessGather())


@pytest.mark.slow
@pytest.mark.parametrize("is_tiled", [False, True])
def test_two_processes_are_one_batch(is_tiled):
    operands = [rows(6).float(), rows(10).float(), INDEX, rows(7).float(), rows(7).float()]
    leaves = [tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor for tensor in operands]
    values, following, expected = all_losses(*leaves)
    parts = run_processes(in_a_process, operands, is_tiled)
    for part_values, part_following, _ in parts:
        assert part_values == pytest.approx(values, rel=1e-5)
        assert part_following == pytest.approx(following, rel=1e-5)
    # The mean over processes, as DDP takes it: rows lie with one process, scalars with both.
    for number, gradient in enumerate(expected):
        found = [part[2][number] for part in parts]
        mean = torch.cat(found) / 2 if gradient.ndim else (found[0] + found[1]) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)


def test_a_plain_function_that_gathers_rows():
    """As if each of two processes held the same rows."""
    regions, texts, images = rows(6), rows(10), rows(7)

    def twice(tensor):
        return torch.cat([tensor, tensor])

    found = hard_contrast_loss(regions, texts, INDEX, logit_scale=7.0, gather=twice)
    expected = hard_contrast_loss(twice(regions), twice(texts), torch.cat([INDEX, INDEX + 6]), logit_scale=7.0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(intra_text_loss(images, gather=twice), intra_text_loss(twice(images)))
    once, _ = rank_loss(regions, texts, INDEX, logit_scale=7.0)
    torch.testing.assert_close(rank_loss(regions, texts, INDEX, logit_scale=7.0, gather=twice)[0], once)


def test_autocast_and_half_precision_keep_digits():
    images, texts = rows(8).float(), rows(8).float()
    regions, hard = rows(6).float(), rows(10).float()
    expected = [
        sigmoid_loss(images, texts, logit_scale=50.0, logit_bias=-9.0),
        intra_text_loss(texts),
        hard_contrast_loss(regions, hard, INDEX, logit_scale=50.0),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            sigmoid_loss(images, texts, logit_scale=50.0, logit_bias=-9.0),
            intra_text_loss(texts),
            hard_contrast_loss(regions, hard, INDEX, logit_scale=50.0),
        ]
    for value, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(value, exact)
    assert sigmoid_loss(images.bfloat16(), texts.bfloat16(), logit_scale=50.0, logit_bias=-9.0).dtype == torch.float32
