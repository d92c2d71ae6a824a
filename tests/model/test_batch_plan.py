"""The plan of a batch against plain loops, and that with it a training step waits for no device."""

from copy import deepcopy

import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from beta_clip_hf import BetaCLIPConfig, BetaCLIPDataCollator, BetaCLIPModel, BetaCLIPProcessor, SceneDataset
from beta_clip_hf.model import paired_rows_beta_clip
from beta_clip_hf.model.batch_plan_beta_clip import BatchPlan, plan_batch
from beta_clip_hf.model.packing_beta_clip import TextPacking, plan_texts
from beta_clip_hf.model.ragged_beta_clip import ImageSlots, slots_by_image
from no_waits import DEVICES, no_waits


# In no order; image 1 has a caption only, image 3 a short caption and nothing else.
IMAGE_INDEX = torch.tensor([2, 0, 2, 1, 0, 3, 2, 3, 0])
GRANULARITY = torch.tensor([1, 0, 0, 0, 3, 0, 2, 3, 2])
SYSTEMS = {
    "β-CLIP, CE": {"alignment_loss": "ce", "text_conditioned_loss_weight": 0.1},
    "β-CLIP, BCE": {"alignment_loss": "bce"},
    "FG-CLIP, stage 2": {"use_pooler": False, "use_long_text_path": True, "use_regions": True},
    "both": {
        "use_long_text_path": True,
        "use_regions": True,
        "mask_identical_region_texts": True,
        "text_negative_loss_weight": 0.5,
        "conditioned_negative_loss_weight": 0.5,
        "text_clip_loss_weight": 0.5,
        "mask_identical_texts": True,
    },
}


def packing_of(num_texts):
    return plan_texts(torch.arange(num_texts)[:, None], torch.ones(num_texts, dtype=torch.int64))


def new_model(clip_config, **changes):
    values = clip_config.to_dict()
    torch.manual_seed(0)
    towers = {name: values[name] for name in ("text_config", "vision_config")}
    return BetaCLIPModel(BetaCLIPConfig(**deepcopy(towers), projection_dim=32, **changes)).train()


@pytest.fixture
def collator(tiny_tokenizer):
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=77, squash=True)
    return BetaCLIPDataCollator(processor, num_regions=3, num_phrases=6, include_short_caption=True)


@pytest.fixture
def rows():
    scenes = SceneDataset(4, level="easy", image_size=32)
    return [scenes[index] for index in range(4)]


def test_a_plan_is_what_plain_loops_find():
    plan = plan_batch(packing_of(9), IMAGE_INDEX, 4, granularity_T=GRANULARITY)
    index, kinds = IMAGE_INDEX.tolist(), GRANULARITY.tolist()
    for image in range(4):
        assert plan.caption_B[image] == next(t for t in range(9) if index[t] == image and kinds[t] == 0)
    assert len(plan.caption_B) == 4
    assert plan.short_J.tolist() == [t for t in range(9) if kinds[t] == 3]
    assert plan.aligned_A.tolist() == [t for t in range(9) if kinds[t] < 3]
    assert plan.text_slots.num_slots == 3 and plan.region_slots is None
    places = [3 * index[t] + index[:t].count(index[t]) for t in range(9)]
    assert plan.text_slots.slot_M.tolist() == places


def test_rows_of_images_in_blocks_and_back():
    rows = torch.randn(9, 2, 5, requires_grad=True)
    slots = slots_by_image(IMAGE_INDEX, 5)  # the last image has no row
    block = slots.block(rows, 5)
    assert block.shape == (5, 3, 2, 5)
    for image in range(5):
        image_rows = rows[image == IMAGE_INDEX]
        assert torch.equal(block[image, : len(image_rows)], image_rows)
        assert not block[image, len(image_rows) :].any()
    assert torch.equal(slots.rows(block), rows)
    (gradient,) = torch.autograd.grad((slots.rows(block) * rows.detach()).sum(), rows)
    assert torch.equal(gradient, rows)
    nothing = slots_by_image(IMAGE_INDEX[:0], 2)
    assert nothing.rows(nothing.block(rows[:0], 2)).shape == (0, 2, 5)


def test_a_batch_that_cannot_have_a_loss_has_no_plan_for_one():
    for kind, message in (
        (0, r"must have one caption for a loss, but they have \[1, 1, 2, 1\]"),
        (3, r"must have one caption for a loss, but they have \[1, 1, 0, 1\]"),
    ):
        wrong = GRANULARITY.clone()
        wrong[0 if kind == 0 else 2] = kind
        with pytest.raises(ValueError, match=message):
            plan_batch(packing_of(9), IMAGE_INDEX, 4, granularity_T=wrong)
        plan = plan_batch(packing_of(9), IMAGE_INDEX, 4)
        assert plan.caption_B is plan.short_J is plan.aligned_A is None
    shorts = GRANULARITY.clone()
    shorts[8] = 3
    with pytest.raises(ValueError, match=r"at most one short caption for a loss, but they have \[2, 0, 0, 1\]"):
        plan_batch(packing_of(9), IMAGE_INDEX, 4, granularity_T=shorts)


def plan_parts(plan):
    """All tensors and numbers of a plan, by name."""
    parts = {}
    for name, value in vars(plan).items():
        inner = plan_parts(value) if isinstance(value, TextPacking | ImageSlots) else {"": value}
        parts |= {f"{name}.{key}": part for key, part in inner.items()}
    return parts


def test_a_worker_makes_the_plan_and_the_loader_moves_it(collator, rows, monkeypatch):
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor, device=None: tensor + 0
    )  # without a GPU nothing can be pinned
    expected = plan_parts(collator(rows)["plan"])
    assert sum(isinstance(part, torch.Tensor) for part in expected.values()) == 9
    (batch,) = DataLoader(rows, batch_size=4, collate_fn=collator, num_workers=1)
    pinned = pin_memory(batch)
    moved = send_to_device(pinned, torch.device("meta"), non_blocking=True)
    assert type(moved["plan"]) is BatchPlan
    for name, part in expected.items():
        on_device = plan_parts(moved["plan"])[name]
        if isinstance(part, torch.Tensor):
            assert torch.equal(plan_parts(pinned["plan"])[name], part)
            assert plan_parts(pinned["plan"])[name] is not plan_parts(batch["plan"])[name]
            assert on_device.device.type == "meta" and on_device.shape == part.shape
        else:
            assert on_device == part


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_waits_for_nothing(tiny_clip_config, collator, rows, monkeypatch, device, system, tiles):
    if tiles:
        monkeypatch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", 0)
    model = new_model(tiny_clip_config, short_clip_loss_weight=1.0, **SYSTEMS[system]).to(device)
    if not model.config.use_regions:
        collator.num_regions = 0
    if model.config.text_negative_loss_weight:
        collator.num_phrase_negatives = 2
    optimizer = torch.optim.AdamW(model.parameters(), fused=device == "cuda")
    batch = pin_memory(collator(rows)) if device == "cuda" else collator(rows)

    def step():
        outputs = model(**send_to_device(batch, torch.device(device), non_blocking=True))
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return outputs

    if device == "cuda":
        step()  # what is made once may wait
    with no_waits(device):
        outputs = step()
    parts = {"clip_loss", "short_clip_loss"}
    parts |= {"beta_cal_loss"} if model.pooler else set()
    parts |= {"text_conditioned_loss"} if model.config.text_conditioned_loss_weight else set()
    parts |= {"region_loss", "hard_negative_loss"} if model.config.use_regions else set()
    further_parts = {"text_negative_loss", "conditioned_negative_loss", "text_clip_loss"}
    parts |= further_parts if model.config.text_negative_loss_weight else set()
    assert outputs.losses.keys() == parts
    with pytest.raises((RuntimeError, AssertionError)), no_waits(device):
        model(**send_to_device(batch | {"plan": None}, torch.device(device), non_blocking=True))
