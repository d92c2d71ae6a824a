"""More positives without conditioning (`text_clip_loss`), and identical texts of two images in the model."""

import pytest
import torch

import reference
from beta_clip_hf import BetaCLIPConfig, BetaCLIPDataCollator, BetaCLIPModel, SceneDataset
from model.test_modeling import texts


@pytest.fixture
def config(tiny_clip_config):
    values = tiny_clip_config.to_dict()
    text_config = {**values["text_config"], "max_position_embeddings": 248}
    return {"text_config": text_config, "vision_config": values["vision_config"], "projection_dim": 32}


@pytest.fixture
def batch():
    input_ids = texts([9, 4, 12, 30, 5, 4])
    input_ids[5] = input_ids[1]  # a phrase of images 0 and 2
    return {
        "pixel_values": torch.randn(3, 3, 32, 32),
        "input_ids": input_ids,
        "image_index": torch.tensor([0, 0, 1, 2, 2, 2]),
        "granularity": torch.tensor([0, 2, 0, 0, 1, 2]),
        "return_loss": True,
    }


def new_model(config, **changes):
    torch.manual_seed(0)
    return BetaCLIPModel(BetaCLIPConfig(**config, **changes)).eval()


@pytest.mark.parametrize("kind", ["ce", "bce"])
@pytest.mark.parametrize("use_pooler", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_each_text_is_a_positive_of_its_image(config, batch, kind, use_pooler, masked):
    options = {"alignment_loss": kind, "beta": 0.3, "mask_identical_texts": masked, "use_pooler": use_pooler}
    model = new_model(config, text_clip_loss_weight=0.7, **options)
    outputs = model(**batch)
    assert outputs.losses.keys() == {"clip_loss", "text_clip_loss"} | ({"beta_cal_loss"} if use_pooler else set())
    text_ids = [0, 1, 2, 3, 4, 1] if masked else None
    images = {"text_clip_loss": (outputs.image_embeds[batch["image_index"]], model.logit_scale)}
    if use_pooler:
        images["beta_cal_loss"] = (outputs.contextualized_embeds, model.pooler.logit_scale)
    for name, (embeds, scale) in images.items():
        settings = (batch["image_index"], scale.exp().item(), 0.3, kind, text_ids)
        expected = reference.beta_cal_loss(embeds, outputs.text_embeds, *settings)
        assert outputs.losses[name].item() == pytest.approx(expected, rel=1e-4)
    total = sum(value for name, value in outputs.losses.items() if name != "text_clip_loss")
    assert outputs.loss.item() == pytest.approx((total + 0.7 * outputs.losses["text_clip_loss"]).item())


def test_short_captions_take_no_part(config, batch):
    model = new_model(config, text_clip_loss_weight=1.0, use_pooler=False)
    expected = model(**batch).losses["text_clip_loss"]
    batch["input_ids"] = torch.cat([batch["input_ids"], texts([30], seed=3)])
    batch["image_index"] = torch.cat([batch["image_index"], torch.tensor([2])])
    batch["granularity"] = torch.cat([batch["granularity"], torch.tensor([3])])
    torch.testing.assert_close(model(**batch).losses["text_clip_loss"], expected)


def test_masking_is_of_no_effect_where_all_texts_differ(config, batch):
    batch["input_ids"][5, 1] = batch["input_ids"][5, 1] - 1
    losses = []
    for masked in (True, False):
        losses.append(new_model(config, text_clip_loss_weight=1.0, mask_identical_texts=masked)(**batch).loss)
    torch.testing.assert_close(losses[0], losses[1])


def test_a_plain_clip_trains_on_sentences_and_phrases(config, tiny_processor):
    model = new_model(config, text_clip_loss_weight=1.0, use_pooler=False, mask_identical_texts=True).train()
    rows = [SceneDataset(4, level="easy", image_size=32)[index] for index in range(4)]
    collator = BetaCLIPDataCollator(tiny_processor, strict=True)
    batch = collator(rows)
    assert set(batch["granularity"].tolist()) == {0, 1, 2}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        outputs = model(**batch)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(outputs.losses["text_clip_loss"].item())
    assert losses[-1] < losses[0]
