"""The public names and their signatures: other people's code stands on them, so a change here is a decision."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

import beta_clip_hf
from beta_clip_hf import BetaCLIPModel, BetaCLIPOutput, BetaSiglip2Model


FUNCTIONS = {
    "beta_cal_loss": (
        "contextualized_embeds_TD, text_embeds_TD, image_index_T, *, logit_scale, beta=0.5, kind='ce', "
        "text_id_T=None, gather=None"
    ),
    "build_text_hierarchy": "caption, *, sentences=None, phrases=None, short_caption=None, extractor=None",
    "clip_loss": "image_embeds_BD, text_embeds_BD, *, logit_scale, gather=None",
    "hard_contrast_loss": ("region_embeds_RD, hard_text_embeds_ND, hard_region_index_N, *, logit_scale, gather=None"),
    "intra_text_loss": "text_embeds_RD, *, leave_out_similar=False, gather=None",
    "rank_loss": (
        "region_embeds_RD, hard_text_embeds_ND, hard_region_index_N, *, logit_scale, threshold=0.0, gather=None"
    ),
    "sigmoid_loss": "image_embeds_BD, text_embeds_BD, *, logit_scale, logit_bias, gather=None",
    "hard_negative_loss": "region_embeds_RD, hard_text_embeds_ND, hard_region_index_N, *, logit_scale",
    "region_loss": "region_embeds_RD, region_text_embeds_RD, *, logit_scale, text_id_R=None, gather=None",
    "split_sentences": "text",
    "text_conditioned_loss": "scores_BT, image_index_T, *, logit_scale, kind='ce', gather=None",
    "text_negative_loss": "scores_T, negative_scores_n, negative_text_index_n, *, logit_scale",
}
CLASSES = [
    "BetaCLIPConfig",
    "BetaCLIPDataCollator",
    "BetaCLIPModel",
    "BetaCLIPOutput",
    "BetaCLIPProcessor",
    "BetaCLIPTrainer",
    "BetaCLIPTrainingArguments",
    "BetaSiglip2Config",
    "BetaSiglip2Model",
    "BetaSiglip2Processor",
    "Granularity",
    "PatchMap",
    "PhraseExtractor",
    "RankLoss",
    "SceneDataset",
    "TextConditionedPooler",
    "TextHierarchy",
]
MODULES = ["scenes"]
# Arguments that callers name; a method may take more (those of CLIPModel's method of the same name).
METHODS = {
    "forward": ["pixel_values", "input_ids", "attention_mask", "image_index", "granularity", "return_loss"],
    "get_image_features": ["pixel_values"],
    "get_text_features": ["input_ids", "attention_mask", "path"],
    "get_patch_features": ["pixel_values"],
    "get_region_features": ["pixel_values", "boxes", "region_image_index", "box_format"],
    "get_text_conditioned_image_features": [
        "pixel_values", "patch_features", "input_ids", "text_embeds", "image_index", "output_attentions",
    ],
    "score_candidates": ["patch_features", "text_embeds", "image_index", "text_index", "chunk_size"],
    "score_pairs": ["patch_features", "text_embeds", "chunk_size"],
}  # fmt: skip
METHODS_ON_SIGLIP2 = {
    "forward": [
        "pixel_values", "pixel_attention_mask", "spatial_shapes", "input_ids", "image_index", "granularity", "boxes",
        "return_loss",
    ],
    "get_image_features": ["pixel_values", "pixel_attention_mask", "spatial_shapes"],
    "get_text_features": ["input_ids", "attention_mask", "path"],
    "get_patch_features": ["pixel_values", "pixel_attention_mask", "spatial_shapes"],
    "get_region_features": [
        "pixel_values", "boxes", "region_image_index", "box_format", "pixel_attention_mask", "spatial_shapes",
    ],
    "get_text_conditioned_image_features": [
        "pixel_values", "patch_features", "input_ids", "text_embeds", "image_index", "output_attentions",
    ],
    "score_candidates": ["patch_features", "text_embeds", "image_index", "text_index", "chunk_size"],
    "score_pairs": ["patch_features", "text_embeds", "chunk_size"],
}  # fmt: skip
OUTPUTS = [
    "loss", "losses", "image_embeds", "text_embeds", "contextualized_embeds", "logits_per_image", "logits_per_text",
]  # fmt: skip


def test_names() -> None:
    assert set(beta_clip_hf.__all__) == {*FUNCTIONS, *CLASSES, *MODULES}
    assert set(beta_clip_hf.__all__) <= set(dir(beta_clip_hf))
    with pytest.raises(AttributeError, match="no_such_name"):
        beta_clip_hf.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    assert inspect.isclass(getattr(beta_clip_hf, name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    parameters = inspect.signature(getattr(beta_clip_hf, name)).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    assert str(inspect.Signature(bare)) == f"({FUNCTIONS[name]})"


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_the_model(name: str) -> None:
    taken = inspect.signature(getattr(BetaCLIPModel, name)).parameters
    assert [argument for argument in METHODS[name] if argument not in taken] == []


@pytest.mark.parametrize("name", METHODS_ON_SIGLIP2)
def test_methods_of_the_model_on_siglip2(name: str) -> None:
    taken = inspect.signature(getattr(BetaSiglip2Model, name)).parameters
    assert [argument for argument in METHODS_ON_SIGLIP2[name] if argument not in taken] == []


def test_what_is_not_for_users_is_not_in_the_signature() -> None:
    for model in (BetaCLIPModel, BetaSiglip2Model):
        taken = inspect.signature(model.forward).parameters
        assert not {"gather", "objective", "plan"} & taken.keys()


def test_output() -> None:
    assert set(OUTPUTS) <= {field.name for field in dataclasses.fields(BetaCLIPOutput)}


@pytest.mark.slow
def test_auto_classes_know_the_model() -> None:
    """In a process of its own: here another test may have registered them already."""
    code = (
        "import beta_clip_hf as b, transformers as t;"
        "config = t.AutoConfig.for_model('beta_clip');"
        "assert type(config) is b.BetaCLIPConfig;"
        "mappings = [t.AutoModel, t.AutoModelForZeroShotImageClassification];"
        "assert [m._model_mapping[b.BetaCLIPConfig] for m in mappings] == [b.BetaCLIPModel] * 2;"
        "config = t.AutoConfig.for_model('beta_siglip2');"
        "assert type(config) is b.BetaSiglip2Config;"
        "assert [m._model_mapping[b.BetaSiglip2Config] for m in mappings] == [b.BetaSiglip2Model] * 2;"
        "from transformers.models.auto.processing_auto import PROCESSOR_MAPPING;"
        "assert PROCESSOR_MAPPING[b.BetaCLIPConfig] is b.BetaCLIPProcessor;"
        "assert PROCESSOR_MAPPING[b.BetaSiglip2Config] is b.BetaSiglip2Processor"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
