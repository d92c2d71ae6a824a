"""All losses of FG-CLIP 2 and their gradients: the authors' numbers."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from beta_clip_hf import (
    BetaSiglip2Model,
    hard_contrast_loss,
    hard_negative_loss,
    intra_text_loss,
    region_loss,
    sigmoid_loss,
)
from model.fg_clip2_cases import CASES, LONG_TABLE, OUR_NAMES, THEIR_LONG_TABLES, Case


NUM_CALLS = 6


@pytest.fixture(scope="module", params=CASES)
def case(request, golden_dir, tmp_path_factory):
    return Case(golden_dir / request.param, tmp_path_factory.mktemp(request.param))


def training_losses(model, case, call):
    """Returns the terms of one call of the authors' training step, by their names."""
    tensors = case.tensors
    images = model.get_image_features(**case.images).pooler_output
    pairs = {"logit_scale": model.logit_scale.exp(), "logit_bias": model.logit_bias}
    short = model.get_text_features(tensors["text_short"]).pooler_output
    losses = {"global_short": sigmoid_loss(normalize(images), normalize(short), **pairs)}
    if call["with_long_text"]:
        long = model.get_text_features(tensors["text_long"], path="long").pooler_output
        losses["global_long"] = sigmoid_loss(normalize(images), normalize(long), **pairs)
    slots, flagged = slots_of(case)
    regions = normalize(model.get_region_features(
        boxes=tensors["box_infos"][slots], region_image_index=torch.tensor(slots) // 4, **case.images
    ))  # fmt: skip
    if call["add_box_loss"]:
        texts = normalize(model.get_text_features(tensors["box_texts"][slots], path="box").pooler_output)
        losses["region"] = region_loss(regions, texts, logit_scale=model.region_logit_scale.exp())
        losses["tic"] = intra_text_loss(texts)
    if call["use_hard_neg"]:
        hard_texts = normalize(model.get_text_features(tensors["hard_texts"], path="box").pooler_output)
        lists = (regions, hard_texts, torch.tensor(flagged).repeat_interleave(11))
        scale = model.hard_negative_logit_scale.exp()
        model.rank_loss.threshold.fill_(call["threshold"])
        losses["hard_contrast"] = hard_contrast_loss(*lists, logit_scale=scale)
        losses["hard_pair"] = hard_negative_loss(*lists, logit_scale=scale)
        losses["cmr"] = model.rank_loss(*lists, logit_scale=scale)
    return losses


def slots_of(case):
    """Returns the valid slots of boxes, and the places among them of the flagged boxes, which are the last ones."""
    slots, flagged = [], []
    counts = zip(case.tensors["box_nums"].tolist(), case.tensors["hard_nums"].tolist(), strict=True)
    for image, (num_boxes, num_flagged) in enumerate(counts):
        slots += range(4 * image, 4 * image + num_boxes)
        flagged += range(len(slots) - num_flagged, len(slots))
    return slots, flagged


@pytest.mark.parametrize("number", range(NUM_CALLS))
def test_losses_and_gradients_are_the_authors(case, number):
    assert len(case.expected["losses"]) == NUM_CALLS
    call, weights = case.expected["losses"][number], case.expected["loss_weights"]
    model = BetaSiglip2Model.from_pretrained(case.folder, use_regions=True).train()
    losses = training_losses(model, case, call)
    terms = ("global_long", "global_short", "region", "tic", "hard_contrast", "hard_pair", "cmr")
    assert losses.keys() == {name for name in terms if call[name] is not None}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(call[name], rel=1e-5), name
    factors = {name: weights[name] for name in ("global_long", "global_short", "region", "tic")}
    factors |= {name: weights["hard"] * weights[name] for name in ("hard_contrast", "hard_pair", "cmr")}
    total = sum(factors[name] * loss for name, loss in losses.items())
    assert total.item() == pytest.approx(call["total"], rel=1e-5)
    if call["use_hard_neg"]:
        assert model.rank_loss.threshold.item() == pytest.approx(call["next_threshold"], rel=1e-5)

    total.backward()
    norms = {}
    for name, parameter in model.named_parameters():
        norms[name] = 0.0 if parameter.grad is None else parameter.grad.norm().item()
    for name, expected in expected_gradients(call["grad_norm"]).items():
        assert norms[name] == pytest.approx(expected, rel=1e-4), name
    assert math.hypot(*norms.values()) == pytest.approx(call["grad_norm_all_parameters"], rel=1e-4)
    unused = {our_name(name) for name in call["unused_parameters"] if name != "dense_feature_head.probe"}
    assert {name for name, norm in norms.items() if norm == 0} == unused
    for theirs, gradient in call["grad_signed"].items():
        parameter = model.get_parameter(OUR_NAMES.get(theirs, theirs))
        found = 0.0 if parameter.grad is None else parameter.grad.item()
        assert found == pytest.approx(gradient or 0.0, rel=1e-4), theirs


def our_name(name):
    for theirs, ours in OUR_NAMES.items():
        name = name.replace(theirs, ours)
    # Two tables in one.
    return LONG_TABLE if name in THEIR_LONG_TABLES else name


def expected_gradients(theirs):
    """Returns their gradient norms by our names, with one norm for the merged table."""
    tables = [theirs.get(name) or 0.0 for name in THEIR_LONG_TABLES]
    others = theirs.keys() - {*THEIR_LONG_TABLES, "dense_feature_head.probe"}
    return {LONG_TABLE: math.hypot(*tables), **{our_name(name): theirs[name] or 0.0 for name in others}}
