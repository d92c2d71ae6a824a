"""Flat batches on SigLIP 2 towers: each text and image as if it were alone, padding without weight, all losses."""

import pytest
import torch
from torch.nn.functional import normalize

import reference
from beta_clip_hf.model.batch_beta_clip import BatchTexts
from beta_clip_hf.model.batch_plan_beta_clip import plan_batch
from beta_clip_hf.model.text_rows_beta_siglip2 import plan_batch_rows
from beta_clip_hf.training.cached_gradients import CachedContrast
from model.siglip2_batches import GRANULARITY, GRIDS, IMAGE_INDEX, LONG, SHORT, flat_batch, tiny_config, tiny_model


PATHS = ("long", "short", "box", "short")
PARTS = (
    "beta_cal_loss",
    "region_loss",
    "hard_negative_loss",
    "sigmoid_loss",
    "short_sigmoid_loss",
    "intra_text_loss",
    "hard_contrast_loss",
    "rank_loss",
)


@pytest.fixture(scope="module")
def model():
    return tiny_model().double()


def image_alone(batch, image):
    """The arguments of one image without its padding."""
    count = int(GRIDS[image].prod())
    return {"pixel_values": batch["pixel_values"][image : image + 1, :count], "spatial_shapes": GRIDS[image][None]}


def text_alone(model, batch, text):
    path = PATHS[GRANULARITY[text]]
    columns = LONG if path == "long" else SHORT
    return model.get_text_features(batch["input_ids"][text : text + 1, :columns], path=path).pooler_output


@torch.no_grad()
def test_each_text_and_image_is_embedded_as_if_it_were_alone(model):
    batch = flat_batch(torch.float64)
    outputs = model(**batch)
    for image in range(3):
        alone = model.get_image_features(**image_alone(batch, image)).pooler_output
        torch.testing.assert_close(outputs.image_embeds[image], normalize(alone, dim=-1)[0])
    for text, image in enumerate(IMAGE_INDEX.tolist()):
        alone = normalize(text_alone(model, batch, text), dim=-1)
        torch.testing.assert_close(outputs.text_embeds[text], alone[0])
        patches = model.get_patch_features(**image_alone(batch, image)).features[0]
        expected, _ = reference.pooled(model.pooler, alone[0], patches, reference.gelu_tanh)
        torch.testing.assert_close(outputs.contextualized_embeds[text], normalize(expected, dim=0))
    for region, image in enumerate(batch["region_image_index"].tolist()):
        alone = model.get_region_features(boxes=batch["boxes"][region : region + 1], **image_alone(batch, image))
        torch.testing.assert_close(outputs.region_embeds[region], normalize(alone, dim=-1)[0])
    logits = model.logit_scale.exp() * outputs.image_embeds @ outputs.text_embeds.T + model.logit_bias
    torch.testing.assert_close(outputs.logits_per_image, logits)
    # Without kinds all texts take the short path.
    plain = {name: batch[name] for name in ("pixel_values", "spatial_shapes", "image_index")}
    texts = model(input_ids=batch["input_ids"][:, :SHORT], **plain).text_embeds
    expected = model.get_text_features(batch["input_ids"][:, :SHORT]).pooler_output
    torch.testing.assert_close(texts, normalize(expected, dim=-1))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("null_token", [False, True])
def test_padding_has_weight_0(attention, null_token):
    model = tiny_model(pooler_null_token=null_token)
    model.set_attn_implementation(attention)
    batch = flat_batch()
    texts = normalize(model(**batch).text_embeds, dim=-1)
    images = {name: batch[name] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")}
    patches = model.get_patch_features(**images)
    pooled, weights = model.get_text_conditioned_image_features(
        patch_features=patches, text_embeds=texts, image_index=IMAGE_INDEX, output_attentions=True
    )
    assert weights.shape == (10, 8, 18)
    assert (weights[~patches.mask[IMAGE_INDEX][:, None].expand_as(weights)] == 0).all()
    assert null_token or torch.allclose(weights.sum(dim=-1), torch.ones(10, 8))
    scores = model.score_pairs(patches, texts, chunk_size=7)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(10))
    listed = model.score_candidates(patches, texts, *pairs.T, chunk_size=5).view(3, 10)
    torch.testing.assert_close(listed, scores, rtol=0, atol=1e-6)
    for image in range(3):
        alone = model.get_patch_features(**image_alone(batch, image))
        torch.testing.assert_close(model.score_pairs(alone, texts)[0], scores[image], rtol=0, atol=1e-6)
        torch.testing.assert_close(model.score_pairs(alone.features, texts)[0], scores[image], rtol=0, atol=1e-6)
    paired_scores = scores[IMAGE_INDEX, torch.arange(10)]
    torch.testing.assert_close((pooled * texts).sum(dim=-1), paired_scores, rtol=0, atol=1e-6)
    # Whatever stands in the padding of a map has no influence.
    garbage = patches._replace(features=patches.features.masked_fill(~patches.mask[..., None], torch.inf))
    assert torch.equal(model.score_pairs(garbage, texts, chunk_size=7), scores)


def box_embeds(model, ids):
    return normalize(model.get_text_features(ids, path="box").pooler_output, dim=-1)


def expected_parts(model, batch, outputs):
    """The parts in plain loops, from embeddings that the model gives for each kind of text."""
    with torch.no_grad():
        regions = outputs.region_embeds
        region_texts = box_embeds(model, batch["region_input_ids"])
        hard = box_embeds(model, batch["hard_input_ids"])
        images, texts = outputs.image_embeds, outputs.text_embeds
        scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
        region_scale = model.region_logit_scale.exp().item()
        hard_scale = model.hard_negative_logit_scale.exp().item()
        index = batch["hard_region_index"]
        aligned = GRANULARITY < 3
        return {
            "beta_cal_loss": reference.beta_cal_loss(
                outputs.contextualized_embeds[aligned],
                texts[aligned],
                IMAGE_INDEX[aligned],
                model.pooler.logit_scale.exp().item(),
                0.5,
                model.config.alignment_loss,
            ),
            "region_loss": reference.region_loss(regions, region_texts, region_scale, [0, 1, 2, 3]),
            "hard_negative_loss": reference.hard_negative_loss(regions, hard, index, hard_scale),
            "sigmoid_loss": reference.sigmoid_loss(images, texts[GRANULARITY == 0], scale, bias),
            "short_sigmoid_loss": reference.sigmoid_loss(images, texts[GRANULARITY == 3], scale, bias),
            "intra_text_loss": reference.intra_text_loss(region_texts),
            "hard_contrast_loss": reference.hard_contrast_loss(regions, hard, index, hard_scale),
            "rank_loss": reference.rank_loss(regions, hard, index, hard_scale, 0.0)[0],
        }


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_all_parts_of_the_loss(model, kind):
    batch = flat_batch(torch.float64)
    model.config.alignment_loss = kind
    outputs = model(**batch)
    assert tuple(outputs.losses) == PARTS
    weights = {name: getattr(model.config, f"{name}_weight") for name in PARTS}
    assert weights == dict(zip(PARTS, (1, 0.2, 1.5, 1, 1, 0.1, 0.3, 0.2), strict=True))
    total = sum(weights[name] * part for name, part in outputs.losses.items())
    torch.testing.assert_close(outputs.loss, total)
    for name, expected in expected_parts(model, batch, outputs).items():
        assert outputs.losses[name].item() == pytest.approx(expected, rel=1e-9), name
    parameters = [model.logit_scale, model.logit_bias, model.box_text_head.weight, model.long_text_head.weight]
    parameters += [model.patch_head.mlp.fc1.weight, model.pooler.q_proj.weight, model.region_logit_scale]
    for gradient in torch.autograd.grad(outputs.loss, parameters):
        assert gradient.abs().max() > 1e-5
    model.config.alignment_loss = "ce"


def test_the_total_as_the_paper_weighs_it():
    """L_global + 0.1 L_region + 0.1 L_TIC + 0.5 L_pair + 0.4 L_CMR on cosines, in plain loops."""
    weights = {"region_loss": 0.1, "intra_text_loss": 0.1, "hard_negative_loss": 0.5, "rank_loss": 0.4}
    changes = {f"{name}_weight": weight for name, weight in weights.items()}
    model = tiny_model(use_pooler=False, hard_contrast_loss_weight=0, rank_loss_on_cosines=True, **changes).double()
    batch = flat_batch(torch.float64)
    outputs = model(**batch)
    with torch.no_grad():
        regions, images, texts = outputs.region_embeds, outputs.image_embeds, outputs.text_embeds
        region_texts, hard = box_embeds(model, batch["region_input_ids"]), box_embeds(model, batch["hard_input_ids"])
        index = batch["hard_region_index"]
        scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
        hard_scale = model.hard_negative_logit_scale.exp().item()
        total = reference.sigmoid_loss(images, texts[GRANULARITY == 0], scale, bias)
        total += reference.sigmoid_loss(images, texts[GRANULARITY == 3], scale, bias)
        region_scale = model.region_logit_scale.exp().item()
        total += 0.1 * reference.region_loss(regions, region_texts, region_scale, [0, 1, 2, 3])
        total += 0.1 * reference.intra_text_loss(region_texts)
        total += 0.5 * reference.hard_negative_loss(regions, hard, index, hard_scale)
        total += 0.4 * reference.rank_loss(regions, hard, index, 1.0, 0.0)[0]
    assert "hard_contrast_loss" not in outputs.losses
    assert outputs.loss.item() == pytest.approx(total, rel=1e-9)


def test_the_threshold_moves_in_training_alone():
    model, batch = tiny_model(rank_loss_weight=0.5), flat_batch()
    model(**batch)
    assert model.rank_loss.threshold == 0
    outputs = model.train()(**batch)
    _, expected = reference.rank_loss(
        outputs.region_embeds.detach(),
        normalize(model.get_text_features(batch["hard_input_ids"], path="box").pooler_output.detach(), dim=-1),
        batch["hard_region_index"],
        model.hard_negative_logit_scale.exp().item(),
        0.0,
    )
    assert model.rank_loss.threshold.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    model.config.rank_loss_on_cosines = True
    model.rank_loss.threshold.zero_()
    on_cosines = model.eval()(**batch).losses["rank_loss"]
    model.config.rank_loss_on_cosines = False
    assert on_cosines.item() == pytest.approx(model(**batch).losses["rank_loss"].item() / 3.3201169, rel=1e-4)


def test_a_contrast_over_micro_batches_is_that_of_one_batch():
    batch = flat_batch(torch.float64)
    images = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    texts = ("input_ids", "image_index", "granularity")
    regions = ("boxes", "region_image_index", "region_input_ids")
    whole = {name: value for name, value in batch.items() if not name.startswith("hard")}
    parts = []
    for chosen in ([0], [1, 2]):
        is_text_of_part = (chosen[0] <= IMAGE_INDEX) & (chosen[-1] >= IMAGE_INDEX)
        is_box_of_part = (batch["region_image_index"] >= chosen[0]) & (batch["region_image_index"] <= chosen[-1])
        part = {name: batch[name][chosen] for name in images}
        part |= {name: batch[name][is_text_of_part] for name in texts} | {
            name: batch[name][is_box_of_part] for name in regions
        }
        part["image_index"] = part["image_index"] - chosen[0]
        part["region_image_index"] = part["region_image_index"] - chosen[0]
        parts.append({**part, "return_loss": True})
    model = tiny_model().double()
    loss = model(**whole).loss
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    contrast = CachedContrast(model, parts)
    for number, part in enumerate(parts):
        with contrast.micro_batch(number):
            found = model(**part).loss
        torch.testing.assert_close(found, loss)
        found.backward()
    for name, parameter in model.named_parameters():
        if expected[name] is not None:
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)
    assert model.logit_bias.grad.abs().item() > 1e-3


def test_equal_texts_are_computed_once(monkeypatch):
    batch = flat_batch()
    model = tiny_model()
    texts = BatchTexts(batch["input_ids"], batch["region_input_ids"].repeat(3, 1))
    rows = plan_batch_rows(texts, GRANULARITY, model.config)
    # Ten texts of which one repeats another on the other path, and four texts of regions, three times each.
    assert (len(rows.short_U), len(rows.long_U), rows.num_texts) == (6 + 4, 3, 22)
    assert (len(rows.short_head_U), len(rows.box_head_U)) == (4, 3 + 4)
    seen = []
    first_layer = model.text_model.encoder.layers[0]
    first_layer.register_forward_pre_hook(lambda layer, inputs: seen.append(tuple(inputs[0].shape[:2])))
    features = model.encode_texts(texts.joined(), rows)
    assert seen == [(10, SHORT), (3, LONG)]
    again = model.get_text_features(batch["region_input_ids"], path="box").pooler_output
    torch.testing.assert_close(features[10:].view(3, 4, -1), again.expand(3, 4, -1))


def test_a_plan_is_taken_as_it_is(monkeypatch):
    model, batch = tiny_model(), flat_batch()
    expected = model(**batch)
    texts = BatchTexts(batch["input_ids"], batch["region_input_ids"], batch["hard_input_ids"])
    plan = plan_batch(
        plan_batch_rows(texts, GRANULARITY, model.config),
        IMAGE_INDEX,
        3,
        granularity_T=GRANULARITY,
        region_image_index_R=batch["region_image_index"],
        grid_sizes=GRIDS.tolist(),
    )
    monkeypatch.setattr(model, "_plan_batch", None)
    batch["spatial_shapes"] = None
    found = model(**batch, plan=plan)
    assert torch.equal(found.loss, expected.loss)
    # Without a loss the texts of regions are not encoded, and the model finds the rows of the others itself.
    batch["return_loss"] = False
    # Another number of texts at a time may change their last bits.
    torch.testing.assert_close(model(**batch, plan=plan).text_embeds, expected.text_embeds, rtol=0, atol=1e-6)


def test_what_cannot_be_is_refused(model):
    batch = flat_batch(torch.float64)
    with pytest.raises(ValueError, match=r"texts on the long path must have at least 20 columns, .* but have 8"):
        model(**{**batch, "input_ids": batch["input_ids"][:, :SHORT]})
    with pytest.raises(ValueError, match=r"texts on the box path must have at least 8 columns, .* but have 6"):
        model(**{**batch, "region_input_ids": batch["region_input_ids"][:, :6]})
    with pytest.raises(ValueError, match="boxes needs image_index beside it"):
        model(batch["input_ids"][:3, :SHORT], boxes=batch["boxes"])
    with pytest.raises(ValueError, match="use_pooler must be True"):
        tiny_model(use_pooler=False).score_pairs(batch["pixel_values"], batch["pixel_values"][0])
    with pytest.raises(ValueError, match=r"a text path must be one of .* but is 'medium'"):
        tiny_config(phrase_text_path="medium")
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        model(**batch, colour=1)


def test_negatives_take_the_path_of_their_text():
    model = tiny_model(conditioned_negative_loss_weight=1.0, text_negative_loss_weight=1.0).double()
    batch = flat_batch(torch.float64)
    batch["negative_input_ids"] = batch["input_ids"][[4, 5]]
    batch["negative_text_index"] = torch.tensor([0, 2])
    losses = model(**batch).losses
    texts = normalize(torch.cat([text_alone(model, batch, text) for text in (0, 4, 2, 5)]), dim=-1)
    image = normalize(model.get_image_features(**image_alone(batch, 0)).pooler_output, dim=-1)
    logits = (model.logit_scale.exp() * texts @ image[0]).view(2, 2)
    expected = -logits.log_softmax(dim=1)[:, 0].mean()
    torch.testing.assert_close(losses["text_negative_loss"], expected)
    assert losses["conditioned_negative_loss"] > 0
