"""Negatives of the texts of a flat batch: the loss, its two parts in the model, and the way through the processor."""

import pytest
import torch
from torch.nn import functional as F

import reference
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor, text_negative_loss
from model.test_modeling import texts


SCALE = 1 / 0.07
INDEX = torch.tensor([0, 2, 2, 2, 5, 6, 6])
PARTS = {"text_negative_loss", "conditioned_negative_loss"}


def cosines(number: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(number, generator=generator, dtype=torch.float64) - 1


# The loss


def test_the_loss_equals_loops():
    scores, negative_scores = cosines(7, 1), cosines(7, 2)
    expected = reference.text_negative_loss(scores, negative_scores, INDEX, SCALE)
    loss = text_negative_loss(scores, negative_scores, INDEX, logit_scale=SCALE)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(expected, rel=1e-12)
    half = text_negative_loss(scores.bfloat16(), negative_scores.bfloat16(), INDEX, logit_scale=SCALE)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(expected, rel=2e-2)


def test_its_gradients_are_right_and_leave_other_texts_alone():
    scores, negative_scores = cosines(7, 1).requires_grad_(), cosines(7, 2).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: text_negative_loss(*inputs[:2], INDEX, logit_scale=inputs[2]), (scores, negative_scores, scale)
    )
    text_negative_loss(scores, negative_scores, INDEX, logit_scale=scale).backward()
    assert (scores.grad != 0).tolist() == [True, False, True, False, False, True, True]


def test_large_logits_do_not_overflow():
    index = torch.tensor([0, 0, 1])
    for scores, expected in (([1.0, 1.0], 0.0), ([-1.0, -1.0], (400 + 200) / 2)):
        negative_scores = torch.tensor([-1.0, 1.0, 0.0]) if expected else -torch.ones(3)
        loss = text_negative_loss(torch.tensor(scores), negative_scores, index, logit_scale=200.0)
        assert loss.item() == pytest.approx(expected)


def test_no_negative_is_a_zero_with_gradients():
    scores, none = cosines(3, 1).requires_grad_(), torch.zeros(0, dtype=torch.float64, requires_grad=True)
    loss = text_negative_loss(scores, none, INDEX[:0], logit_scale=SCALE)
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any() and none.grad.shape == (0,)


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"one place for each of negative_scores \(7,\), but has shape \(6,\)"):
        text_negative_loss(cosines(7, 1), cosines(7, 2), INDEX[:-1], logit_scale=SCALE)


# The parts in the model


def new_model(clip_config, **changes):
    values = clip_config.to_dict()
    towers = {name: values[name] for name in ("text_config", "vision_config")}
    weights = {"text_negative_loss_weight": 0.3, "conditioned_negative_loss_weight": 0.7}
    torch.manual_seed(0)
    model = BetaCLIPModel(BetaCLIPConfig(**towers, projection_dim=32, **{**weights, **changes})).eval()
    with torch.no_grad():  # a scale that cannot be mistaken for CLIP's
        if model.pooler is not None:
            model.pooler.logit_scale.fill_(1.5)
    return model


@pytest.fixture
def batch():
    return {
        "pixel_values": torch.randn(3, 3, 32, 32),
        "input_ids": texts([9, 4, 12, 30, 5]),
        "image_index": torch.tensor([0, 0, 1, 2, 2]),
        "granularity": torch.tensor([0, 2, 0, 0, 2]),
        "negative_input_ids": texts([9, 8, 5, 28, 31, 40], seed=1),
        "negative_attention_mask": torch.ones(6, 40),
        "negative_text_index": torch.tensor([0, 0, 1, 3, 3, 3]),
        "return_loss": True,
    }


NEGATIVES = ("negative_input_ids", "negative_attention_mask", "negative_text_index")


@pytest.mark.parametrize("two_paths", [False, True])
def test_the_parts_are_the_losses_of_the_features(tiny_clip_config, batch, two_paths):
    """The negatives of a caption take the path of captions."""
    model = new_model(tiny_clip_config, use_long_text_path=two_paths)
    index = batch["negative_text_index"]
    with torch.no_grad():
        outputs = model(**batch)
        negatives = []
        for ids, text in zip(batch["negative_input_ids"], index.tolist(), strict=True):
            path = ["long", None, "short"][batch["granularity"][text]] if two_paths else None
            negatives.append(model.get_text_features(ids[None], path=path).pooler_output)
        negatives = F.normalize(torch.cat(negatives), dim=-1)
        image_index = batch["image_index"][index]
        pooled = model.get_text_conditioned_image_features(
            batch["pixel_values"], text_embeds=negatives, image_index=image_index
        )
    images = outputs.image_embeds[batch["image_index"]]
    expected = {
        "text_negative_loss": reference.text_negative_loss(
            (images * outputs.text_embeds).sum(dim=1),
            (images[index] * negatives).sum(dim=1),
            index,
            model.logit_scale.exp().item(),
        ),
        "conditioned_negative_loss": reference.text_negative_loss(
            (outputs.contextualized_embeds * outputs.text_embeds).sum(dim=1),
            (pooled * negatives).sum(dim=1),
            index,
            torch.tensor(1.5).exp().item(),
        ),
    }
    for name, value in expected.items():
        assert outputs.losses[name].item() == pytest.approx(value, rel=1e-4)
    losses = outputs.losses
    total = sum(value for name, value in losses.items() if name not in PARTS)
    total += 0.3 * losses["text_negative_loss"] + 0.7 * losses["conditioned_negative_loss"]
    assert outputs.loss.item() == pytest.approx(total.item())


def test_negatives_change_no_other_part(tiny_clip_config, batch):
    model = new_model(tiny_clip_config)
    without = {name: value for name, value in batch.items() if name not in NEGATIVES}
    expected, found = model(**without), model(**batch)
    assert found.losses.keys() - expected.losses.keys() == PARTS
    for name, value in expected.losses.items():
        torch.testing.assert_close(found.losses[name], value)
    assert found.text_embeds.shape == found.contextualized_embeds.shape == (5, 32)
    none = {name: batch[name][:0] for name in NEGATIVES}
    assert model(**without, **none).losses.keys() == expected.losses.keys()


def test_by_default_negatives_are_not_encoded(tiny_model, batch):
    batch["negative_input_ids"][:] = 0  # no end token: encoding these would be an error or another loss
    assert tiny_model(**batch).losses.keys() == {"clip_loss", "beta_cal_loss"}
    tiny_model.config.conditioned_negative_loss_weight = 1.0
    batch["negative_input_ids"] = texts([9, 8, 5, 28, 31, 40], seed=1)
    assert tiny_model(**batch).losses.keys() == {"clip_loss", "beta_cal_loss", "conditioned_negative_loss"}


def test_without_a_pooler_there_is_one_part(tiny_clip_config, batch):
    model = new_model(tiny_clip_config, use_pooler=False)
    outputs = model(**batch)
    assert outputs.losses.keys() == {"clip_loss", "text_negative_loss"}
    outputs.loss.backward()
    tokens = model.text_model.embeddings.token_embedding.weight.grad.abs().sum(dim=1)
    assert (tokens[batch["negative_input_ids"][2, :5]] > 0).all()


def test_what_is_missing_or_of_another_length_is_named(tiny_model, batch):
    cases = {
        "negative_text_index": (None, "negative_input_ids and negative_text_index must be given together"),
        "negative_input_ids": (texts([5] * 3), "negative_text_index must be one row for each of 3"),
        "image_index": (None, "granularity needs image_index beside it"),
    }
    for name, (value, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            tiny_model(**batch | {name: value})
    plain = {name: batch[name] for name in ("pixel_values", "input_ids", *NEGATIVES)}
    with pytest.raises(ValueError, match="negative_input_ids needs image_index beside it"):
        tiny_model(**plain)


# The processor


def test_the_processor_cuts_a_negative_like_its_text(tiny_tokenizer):
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, max_length=30, short_max_length=10)
    word = "x" * 40
    fields = type("Texts", (), {"caption": "Two.", "sentences": [], "phrases": ["cup"], "short_caption": "s"})
    hierarchies = ["One cup.", fields]
    batch = processor(hierarchies=hierarchies, negatives=[[[word, "No cup."]], [[], [word], []]])
    assert batch["negative_text_index"].tolist() == [0, 0, 2]
    assert batch["negative_attention_mask"].sum(dim=1).tolist() == [30, 8, 10]
    assert batch["negative_input_ids"].shape == (3, 30)
    none = processor(hierarchies=hierarchies, negatives=[[[]], [[], [], []]])
    assert none["negative_input_ids"].shape == (0, 1) and none["negative_text_index"].shape == (0,)


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        ([[[]]], "negatives must be a list per image, but are 1 for 2 images"),
        ([[[]], [[]]], r"negatives\[1\] must have a list for each of 2 texts, but has 1"),
        ([[["&nbsp;"]], [[], []]], r"a text of negatives\[0\]\[0\] must be a text that is not empty"),
    ],
)
def test_wrong_negatives_are_named(tiny_processor, negatives, message):
    phrase = type("Texts", (), {"caption": "Two.", "sentences": [], "phrases": ["cup"]})
    with pytest.raises(ValueError, match=message):
        tiny_processor(hierarchies=["One cup.", phrase], negatives=negatives)
    with pytest.raises(ValueError, match="negatives must come with hierarchies, but there are none"):
        tiny_processor(text=["a"], negatives=negatives)
