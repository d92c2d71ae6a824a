"""Every use of a flat batch, for tests that compare a wrapped model with the model itself."""

from typing import Any

import torch
from torch import Tensor

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.model.batch_plan_beta_clip import plan_batch
from beta_clip_hf.model.packing_beta_clip import plan_texts, text_lengths


END = 513
LENGTHS = [40, 21, 4, 9, 12, 3, 60, 58, 5]
IMAGE_INDEX = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
GRANULARITY = torch.tensor([0, 1, 2, 2, 0, 2, 0, 1, 2])
BOXES = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.5, 0.9], [0.3, 0.3, 0.8, 0.7]])


def new_model(clip_config: Any, **switches: Any) -> BetaCLIPModel:
    """A model with both text paths, a pooler and regions, unless the switches say otherwise; seeded, for inference."""
    values = clip_config.to_dict()
    switches = {"use_pooler": True, "use_regions": True, "use_long_text_path": True, **switches}
    if switches["use_long_text_path"]:
        switches["long_text_max_position_embeddings"] = 96
    torch.manual_seed(0)
    config = BetaCLIPConfig(
        text_config=values["text_config"] | {"max_position_embeddings": 64},
        vision_config=values["vision_config"],
        projection_dim=32,
        **switches,
    )
    return BetaCLIPModel(config).eval()


def flat_batch() -> dict[str, Any]:
    """Three images with a caption each, a short caption, phrases; each text ends with its EOS."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 500, (len(LENGTHS), max(LENGTHS)), generator=generator)
    ids[:, 0] = END - 1
    ids[range(len(LENGTHS)), [length - 1 for length in LENGTHS]] = END
    return {
        "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
        "input_ids": ids,
        "image_index": IMAGE_INDEX,
        "granularity": GRANULARITY,
    }


def planned(batch: dict[str, Any], model: BetaCLIPModel) -> dict[str, Any]:
    """The batch with the plan that a collator adds."""
    ids = batch["input_ids"]
    is_long = batch["granularity"] == 0 if model.long_text_projection is not None else None
    packing = plan_texts(ids, text_lengths(ids, END), is_long)
    num_images = len(batch["pixel_values"])
    plan = plan_batch(packing, batch["image_index"], num_images, granularity_T=batch["granularity"])
    return batch | {"plan": plan}


def all_uses(model: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """What each use of a flat batch returns: with a plan, without, and the methods beside `forward`."""
    results = {}
    for name, inputs in {"no plan": batch, "plan": planned(batch, model)}.items():
        outputs = model(**inputs)
        for field in ("image_embeds", "text_embeds", "contextualized_embeds", "logits_per_image"):
            results[f"{name}: {field}"] = outputs[field]
    pixel_values = batch["pixel_values"]
    results["get_patch_features"] = patches = model.get_patch_features(pixel_values)
    results["get_region_features"] = model.get_region_features(pixel_values, BOXES)
    results["get_image_features"] = model.get_image_features(pixel_values).pooler_output
    results["get_text_features"] = texts = model.get_text_features(batch["input_ids"]).pooler_output
    results["score_pairs"] = model.score_pairs(patches, texts)
    results["score_candidates"] = model.score_candidates(patches, texts, torch.tensor([[0], [2]]), torch.arange(5))
    results["get_text_conditioned_image_features"] = model.get_text_conditioned_image_features(
        pixel_values, batch["input_ids"], image_index=batch["image_index"], path="long"
    )
    return results


def assert_equal_uses(model: Any, expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Each use of the model returns what is expected."""
    with torch.no_grad():
        results = all_uses(model, flat_batch())
    assert results.keys() == expected.keys()
    for name, tensor in results.items():
        torch.testing.assert_close(tensor, expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


def assert_similar_uses(model: Any, expected: dict[str, Tensor], cosine: float) -> None:
    """Each use of the model returns nearly what is expected: the mean cosine of rows."""
    with torch.no_grad():
        results = all_uses(model, flat_batch())
    for name, tensor in results.items():
        similarity = torch.cosine_similarity(tensor.float(), expected[name].float(), dim=-1)
        assert similarity.mean() >= cosine, f"{name} has cosine {similarity.mean()}"
