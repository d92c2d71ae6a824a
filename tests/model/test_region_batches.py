"""Regions and hard negatives of a flat batch in `BetaCLIPModel.forward`, and the option for identical texts."""

import pytest
import torch
from torch.nn import functional as F

import reference
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, hard_negative_loss, region_loss
from model.test_modeling import END, texts


SCALE = 1 / 0.07


def embeddings(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 6, generator=generator, dtype=torch.float64), dim=-1)


@pytest.fixture
def model(tiny_clip_config):
    values = tiny_clip_config.to_dict()
    config = BetaCLIPConfig(
        text_config=values["text_config"], vision_config=values["vision_config"], projection_dim=32, use_regions=True
    )
    torch.manual_seed(0)
    model = BetaCLIPModel(config).eval()
    with torch.no_grad():  # scales that cannot be mistaken for one another
        model.region_logit_scale.fill_(1.5)
        model.hard_negative_logit_scale.fill_(2.0)
    return model


@pytest.fixture
def batch():
    boxes = torch.rand(5, 4).sort(dim=1).values[:, [0, 1, 2, 3]]
    return {
        "pixel_values": torch.randn(3, 3, 32, 32),
        "input_ids": texts([9, 4, 12, 30, 5]),
        "image_index": torch.tensor([0, 0, 1, 2, 2]),
        "granularity": torch.tensor([0, 2, 0, 0, 2]),
        "boxes": boxes,
        "region_image_index": torch.tensor([0, 0, 2, 2, 2]),  # image 1 has no region
        "region_input_ids": texts([5, 40, 7, 5, 6], seed=1),
        "region_attention_mask": torch.ones(5, 40),
        "hard_input_ids": texts([4, 5, 6, 5, 5, 5, 18], seed=2),
        "hard_region_index": torch.tensor([1, 1, 1, 4, 4, 4, 4]),
        "return_loss": True,
    }


REGIONS = (
    "boxes", "region_image_index", "region_input_ids", "region_attention_mask", "hard_input_ids", "hard_region_index",
)  # fmt: skip


def test_the_parts_are_the_losses_of_the_features(model, batch):
    with torch.no_grad():
        outputs = model(**batch)
        regions = model.get_region_features(batch["pixel_values"], batch["boxes"], batch["region_image_index"])
        regions = F.normalize(regions, dim=-1)
        region_texts, hard_texts = (
            F.normalize(model.get_text_features(batch[f"{kind}_input_ids"]).pooler_output, dim=-1)
            for kind in ("region", "hard")
        )
    torch.testing.assert_close(outputs.region_embeds, regions)
    expected = {
        "region_loss": reference.clip_loss(regions, region_texts, torch.tensor(1.5).exp().item()),
        "hard_negative_loss": reference.hard_negative_loss(
            regions, hard_texts, batch["hard_region_index"], torch.tensor(2.0).exp().item()
        ),
    }
    for name, value in expected.items():
        assert outputs.losses[name].item() == pytest.approx(value, rel=1e-5)
    total = sum(outputs.losses[name] for name in ("clip_loss", "beta_cal_loss"))
    total += 0.1 * outputs.losses["region_loss"] + 0.5 * outputs.losses["hard_negative_loss"]
    assert outputs.loss.item() == pytest.approx(total.item())


def test_gradients_reach_regions_scales_and_the_texts_of_both(model, batch):
    model(**batch).loss.backward()
    for name in ("region_logit_scale", "hard_negative_logit_scale"):
        assert model.get_parameter(name).grad.abs() > 0
    tokens = model.text_model.embeddings.token_embedding.weight.grad.abs().sum(dim=1)
    for kind in ("region", "hard"):
        ids = batch[f"{kind}_input_ids"][0]
        assert (tokens[ids[: ids.tolist().index(END) + 1]] > 0).all()


def test_a_batch_without_regions_has_no_parts_of_them(model, batch):
    expected = {"clip_loss", "beta_cal_loss"}
    without = {name: value for name, value in batch.items() if name not in REGIONS}
    assert model(**without).losses.keys() == expected
    empty = {name: batch[name][:0] for name in REGIONS}
    outputs = model(**without, **empty)
    assert outputs.losses.keys() == expected and outputs.region_embeds.shape == (0, 32)
    assert outputs.loss.item() == pytest.approx(model(**without).loss.item())
    unflagged = {name: batch[name][:0] for name in ("hard_input_ids", "hard_region_index")}
    assert model(**batch | unflagged).losses.keys() == expected | {"region_loss"}


def test_a_part_of_weight_zero_is_not_computed_and_its_texts_are_not_encoded(model, batch):
    model.config.region_loss_weight = 0
    batch["region_input_ids"][:] = 0  # no end token: encoding these would not give the same
    assert model(**batch).losses.keys() == {"clip_loss", "beta_cal_loss", "hard_negative_loss"}
    model.config.hard_negative_loss_weight = 0
    assert model(**batch).losses.keys() == {"clip_loss", "beta_cal_loss"}


def test_the_order_of_regions_does_not_matter(model, batch):
    expected = model(**batch).loss
    order = torch.tensor([3, 0, 4, 2, 1])
    for name in REGIONS[:4]:
        batch[name] = batch[name][order]
    place = torch.argsort(order)
    by_region = torch.argsort(place[batch["hard_region_index"]], stable=True)
    batch["hard_region_index"] = place[batch["hard_region_index"]][by_region]
    batch["hard_input_ids"] = batch["hard_input_ids"][by_region]
    torch.testing.assert_close(model(**batch).loss, expected)


def test_short_captions_are_contrasted_where_their_weight_says_so(model, batch):
    batch["granularity"] = torch.tensor([0, 3, 0, 0, 3])
    assert "short_clip_loss" not in model(**batch).losses  # β-CLIP has no such part
    model.config.short_clip_loss_weight = 1.0
    outputs = model(**batch)
    expected = reference.clip_loss(
        outputs.image_embeds[[0, 2]], outputs.text_embeds[[1, 4]], model.logit_scale.exp().item()
    )
    assert outputs.losses["short_clip_loss"].item() == pytest.approx(expected, rel=1e-5)
    batch["image_index"], batch["granularity"] = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 3, 3, 0, 0])
    with pytest.raises(ValueError, match=r"at most one short caption for a loss, but they have \[2, 0, 0\]"):
        model(**batch)


def test_what_is_missing_or_of_another_length_is_named(model, batch, tiny_model):
    with pytest.raises(ValueError, match="use_regions must be True for a loss with boxes, but is False"):
        tiny_model(**batch)
    cases = {
        "region_image_index": (None, "region_image_index must be one row for each of 5, but is missing"),
        "region_input_ids": (texts([5, 5]), r"region_input_ids must be one row for each of 5, but is of shape \(2,\)"),
        "hard_region_index": (None, "hard_input_ids and hard_region_index must be given together"),
        "hard_input_ids": (texts([5] * 3), r"hard_region_index must be one row for each of 3, but is of shape \(7,\)"),
        "boxes": (torch.rand(5, 5), r"boxes must have shape \(R, 4\), but are \(5, 5\)"),
    }
    for name, (value, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            model(**batch | {name: value})


# Identical texts


def test_identical_texts_can_be_left_out_of_the_negatives():
    left, right, ids = embeddings(7, 1), embeddings(7, 2), torch.tensor([3, 9, 3, -5, 9, 9, 0])
    expected = reference.region_loss(left, right, SCALE, ids.tolist())
    assert region_loss(left, right, logit_scale=SCALE, text_id_R=ids).item() == pytest.approx(expected, rel=1e-12)
    assert expected < region_loss(left, right, logit_scale=SCALE).item() - 0.05
    different = region_loss(left, right, logit_scale=SCALE, text_id_R=torch.arange(7))
    assert different.item() == pytest.approx(reference.clip_loss(left, right, SCALE), rel=1e-12)


def test_gradients_are_finite_where_all_texts_are_the_same():
    left = embeddings(4, 1).requires_grad_()
    loss = region_loss(left, embeddings(4, 2), logit_scale=SCALE, text_id_R=torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12) and left.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"text_id must have shape \(4,\)"):
        region_loss(left, left, logit_scale=SCALE, text_id_R=torch.zeros(3))


def test_the_model_knows_texts_by_their_tokens_up_to_the_end(model, batch):
    ids = texts([5, 40, 7, 5, 6], seed=1)
    ids[3, :5] = ids[0, :5]  # the same text, with other noise behind its end
    batch["region_input_ids"] = ids
    keys = model.hash_texts(ids).tolist()
    assert keys[3] == keys[0] and len(set(keys)) == 4
    assert model.hash_texts(ids[[0, 3], :9]).tolist() == [keys[0], keys[3]]  # whatever the padding
    assert (
        len(set(model.hash_texts(ids[0, torch.tensor([[0, 1, 2, 3, 4], [0, 2, 1, 3, 4]])]).tolist())) == 2
    )  # order counts
    as_negatives = model(**batch).losses["region_loss"].item()
    model.config.mask_identical_region_texts = True
    outputs = model(**batch)
    with torch.no_grad():
        texts_RD = F.normalize(model.get_text_features(ids).pooler_output, dim=-1)
    expected = reference.region_loss(outputs.region_embeds, texts_RD, torch.tensor(1.5).exp().item(), keys)
    assert outputs.losses["region_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert as_negatives > outputs.losses["region_loss"].item() + 1e-3


def test_hard_negatives_of_any_number_and_none(model, batch):
    regions = embeddings(3, 1).requires_grad_()
    single = hard_negative_loss(regions, embeddings(1, 2), torch.tensor([2]), logit_scale=SCALE)
    assert single.item() == 0.0  # a true text without negatives cannot be missed
    none = hard_negative_loss(regions, embeddings(0, 2), torch.zeros(0, dtype=torch.int64), logit_scale=SCALE)
    none.backward()
    assert none.item() == 0.0 and torch.equal(regions.grad, torch.zeros_like(regions))
