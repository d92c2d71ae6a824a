"""Mismatched-condition negatives: the loss against loops, and what the model makes of it against one pair at a time."""

from contextlib import contextmanager

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import reference
from beta_clip_hf import BetaCLIPModel, beta_cal_loss, text_conditioned_loss
from beta_clip_hf.model import pooler_beta_clip
from beta_clip_hf.model.batch_plan_beta_clip import plan_batch
from beta_clip_hf.model.packing_beta_clip import plan_texts, text_lengths
from no_waits import DEVICES, no_waits
from training.tiny_runs import TensorCollator, TensorRows


IMAGE_INDEX = torch.tensor([0, 0, 0, 1, 3, 3, 3, 4])  # image 2 has no text
SCORES = torch.empty(5, 8, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
SCALE = 1 / 0.07


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_the_loss_is_the_formula_in_loops(kind):
    expected = reference.text_conditioned_loss(SCORES, IMAGE_INDEX, SCALE, kind)
    loss = text_conditioned_loss(SCORES, IMAGE_INDEX, logit_scale=SCALE, kind=kind)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    shuffled = text_conditioned_loss(SCORES[:, order], IMAGE_INDEX[order], logit_scale=SCALE, kind=kind)
    assert shuffled.item() == pytest.approx(expected, rel=1e-12)
    better = text_conditioned_loss(
        SCORES + (torch.arange(5)[:, None] == IMAGE_INDEX), IMAGE_INDEX, logit_scale=SCALE, kind=kind
    )
    assert better < loss - 0.1


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_beta_would_change_nothing(beta):
    """Rows of β-CAL that are alike within an image, as scores of all pairs are, give the same for every β."""
    images = torch.nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64), dim=-1)
    texts = torch.eye(8, dtype=torch.float64)
    one_way = torch.nn.functional.cross_entropy(SCALE * texts @ images.T, IMAGE_INDEX)
    loss = text_conditioned_loss(images @ texts.T, IMAGE_INDEX, logit_scale=SCALE)
    other_way = 2 * loss - one_way
    row_targets = (IMAGE_INDEX[:, None] == IMAGE_INDEX).double() * beta
    row_targets.fill_diagonal_(1)
    row_targets /= row_targets.sum(dim=1, keepdim=True)
    expected = torch.nn.functional.cross_entropy(SCALE * images[IMAGE_INDEX] @ texts.T, row_targets)
    assert other_way.item() == pytest.approx(expected.item(), rel=1e-12)


def test_it_differs_from_beta_cal_by_its_negatives():
    """Where an image gives the same for any text, bce over all pairs is β-CAL with one text per image."""
    v, u = (torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=-1) for _ in range(2))
    pair_loss = text_conditioned_loss(v @ u.T, torch.arange(6), logit_scale=SCALE, kind="bce")
    row_loss = beta_cal_loss(v, u, torch.arange(6), logit_scale=SCALE, kind="bce")
    assert pair_loss.item() == pytest.approx(row_loss.item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_gradcheck(kind):
    leaves = [SCORES.clone().requires_grad_(), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)]

    def function(scores, scale):
        return text_conditioned_loss(scores, IMAGE_INDEX, logit_scale=scale, kind=kind)

    assert torch.autograd.gradcheck(function, leaves)
    score_gradient, scale_gradient = torch.autograd.grad(function(*leaves), leaves)
    assert score_gradient.abs().min() > 1e-6 and scale_gradient.abs() > 1e-3  # every pair takes part


def test_half_precision_empty_batches_and_wrong_arguments():
    exact = text_conditioned_loss(SCORES.bfloat16().double(), IMAGE_INDEX, logit_scale=100.0)
    half = text_conditioned_loss(SCORES.bfloat16(), IMAGE_INDEX, logit_scale=100.0)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(exact.item(), rel=1e-5)
    scale = torch.tensor(2.0, requires_grad=True)
    for kind in ("ce", "bce"):
        loss = text_conditioned_loss(SCORES[:, :0], IMAGE_INDEX[:0], logit_scale=scale, kind=kind)
        assert loss.item() == 0 and torch.autograd.grad(loss, scale)[0].item() == 0
    with pytest.raises(ValueError, match=r"one place for each of the texts of scores \(5, 8\), but has shape \(7,\)"):
        text_conditioned_loss(SCORES, IMAGE_INDEX[:7], logit_scale=1.0)
    with pytest.raises(ValueError, match='kind must be "ce" or "bce", but is \'mse\''):
        text_conditioned_loss(SCORES, IMAGE_INDEX, logit_scale=1.0, kind="mse")


# The model


@pytest.fixture
def model(tiny_config):
    model = BetaCLIPModel(tiny_config).double()
    for parameter in model.pooler.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def batch():
    """5 images, 8 texts and a short caption, which takes no part."""
    batch = TensorCollator()([TensorRows(5)[index] for index in range(5)])
    batch["granularity"][-1] = 3
    return batch | {"pixel_values": batch["pixel_values"].double()}


def slow_loss(model, batch, kind):
    """By one call of the pooler for each pair, with what plain autograd keeps of it."""
    outputs = model(**batch)
    patches = model.get_patch_features(batch["pixel_values"])
    taken = (batch["granularity"] <= 2).nonzero()[:, 0]
    texts, first = outputs.text_embeds[taken], torch.tensor([0])
    rows = []
    for image in range(len(patches)):
        pooled = [model.pooler(text[None], patches[image : image + 1], first)[0][0] for text in texts]
        rows.append(torch.nn.functional.cosine_similarity(torch.stack(pooled), texts, dim=-1))
    scale, index = model.pooler.logit_scale.exp(), batch["image_index"][taken]
    return text_conditioned_loss(torch.stack(rows), index, logit_scale=scale, kind=kind)


@pytest.mark.parametrize("kind", ["ce", "bce"])
@pytest.mark.parametrize("packed", [True, False])
def test_value_and_gradients_are_those_of_one_pair_at_a_time(model, batch, kind, packed, monkeypatch):
    model.config.alignment_loss, model.config.text_conditioned_loss_weight = kind, 0.7
    monkeypatch.setattr(pooler_beta_clip, "pairs_at_a_time", lambda *_: 20)  # several blocks
    if not packed:
        plan = plan_texts(batch["input_ids"], text_lengths(batch["input_ids"], 513), one_text_per_row=True)
        monkeypatch.setattr(model, "plan_texts", lambda *_: plan)
    outputs = model(**batch)
    found = torch.autograd.grad(0.7 * outputs.losses["text_conditioned_loss"], model.parameters(), allow_unused=True)
    slow = slow_loss(model, batch, kind)
    expected = torch.autograd.grad(0.7 * slow, model.parameters(), allow_unused=True)
    torch.testing.assert_close(outputs.losses["text_conditioned_loss"], slow, rtol=0, atol=1e-12)
    total = outputs.losses["clip_loss"] + outputs.losses["beta_cal_loss"] + 0.7 * slow
    torch.testing.assert_close(outputs.loss, total, rtol=0, atol=1e-12)
    for (name, _), gradient, plain in zip(model.named_parameters(), found, expected, strict=True):
        if plain is None and gradient is not None:
            plain = torch.zeros_like(gradient)
        torch.testing.assert_close(gradient, plain, rtol=0, atol=1e-12, msg=name)
    assert sum(gradient is not None and gradient.abs().max() > 1e-5 for gradient in expected) > 40


def test_the_loss_of_the_model_is_the_formula_in_loops(model, batch):
    model.config.text_conditioned_loss_weight = 1
    outputs, patches = model(**batch), model.get_patch_features(batch["pixel_values"])
    scores = torch.empty(5, 8, dtype=torch.float64)
    for image in range(5):
        for text in range(8):
            pooled, _ = reference.pooled(model.pooler, outputs.text_embeds[text], patches[image])
            scores[image, text] = reference.dot(reference.unit(pooled), outputs.text_embeds[text])
    scale = model.pooler.logit_scale.exp().item()
    expected = reference.text_conditioned_loss(scores, batch["image_index"][:8], scale, "ce")
    assert outputs.losses["text_conditioned_loss"].item() == pytest.approx(expected, rel=1e-12)


def test_by_default_nothing_of_it_is_computed(model, batch, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("no pair is to be scored")

    calls = []
    monkeypatch.setattr(model.pooler, "score_pairs", never)
    model.pooler.k_proj.register_forward_hook(lambda *_: calls.append(1))
    assert model.config.text_conditioned_loss_weight == 0
    assert model(**batch).losses.keys() == {"clip_loss", "beta_cal_loss"}
    assert len(calls) == 1
    model.config.text_conditioned_loss_weight = 1
    model(**batch | {"return_loss": False})  # nor without a loss
    with pytest.raises(AssertionError, match="no pair"):
        model(**batch)


@contextmanager
def counted(saved):
    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def test_the_memory_of_the_pairs_is_that_of_a_chunk(model, monkeypatch):
    """What is kept for the gradient: nothing of the size of the pairs and the width together."""
    patches = torch.randn(12, 16, 32, dtype=torch.float64, requires_grad=True)
    texts = torch.randn(50, 32, dtype=torch.float64, requires_grad=True)
    numbers = {}
    for way in ("checkpointed", "plain"):
        if way == "plain":
            monkeypatch.setattr(pooler_beta_clip, "checkpoint", lambda function, *args, **_: function(*args))
        saved: list[int] = []
        with counted(saved):
            scores = model.pooler.score_pairs(patches, texts, chunk_size=50)
        scores.sum().backward()
        numbers[way] = sum(saved)
    assert numbers["plain"] > 12 * 50 * 32 * 10
    # Features and texts as they came in, and as unit vectors and queries.
    assert numbers["checkpointed"] < patches.numel() + 12 * 4 * texts.numel()
    assert numbers["checkpointed"] < numbers["plain"] / 5


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_the_gpu_is_not_waited_for(tiny_config, batch, device):
    tiny_config.text_conditioned_loss_weight = 1
    model = BetaCLIPModel(tiny_config)
    packing = model.plan_texts(batch["input_ids"], None)
    plan = plan_batch(packing, batch["image_index"], 5, granularity_T=batch["granularity"])
    model.to(device)
    moved = {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    moved["pixel_values"] = moved["pixel_values"].float()
    for kind in ("ce", "bce"):
        model.config.alignment_loss = kind
        with no_waits(device):
            outputs = model(**moved, plan=plan, return_loss=True)
            outputs.loss.backward()
        assert "text_conditioned_loss" in outputs.losses
