"""The arms of the study: every way to train that is compared. Each differs from the base in one thing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beta_clip_hf import BetaCLIPConfig, BetaCLIPDataCollator
from beta_clip_hf.training.setup.config import read_config


STARTS = ("finetune", "scratch")
BASE = "ce"
"""Name of the arm that the others differ from in one thing."""

_BASE_CONFIG = {"use_pooler": True, "beta": 0.5, "alignment_loss": "ce", "pooler_num_attention_heads": 2}
_BASE_COLLATOR = {"caption_mode": "full", "num_phrases": 6}
# Plain CLIP learns from the whole caption alone.
_PLAIN_CONFIG = {"use_pooler": False}
_PLAIN_COLLATOR = {"caption_mode": "caption_only"}
# The recipe that is recommended has one home: the file that users train with.
_RECIPE = read_config(Path(__file__).resolve().parents[2] / "examples" / "configs" / "recommended.yaml")
# What of it needs captions alone.
_RECIPE_LOSSES_OF_CAPTIONS = ("short_clip_loss_weight", "text_clip_loss_weight")
_RECIPE_TEXTS_OF_CAPTIONS = ("include_short_caption",)


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    name: str
    group: str
    """Question that the arm is for, see [`GROUPS`]."""
    description: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model."""
    collator: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the collator: which texts and regions of a row are used."""
    contrast: int = 0
    """Images that are contrasted with each other; 0 stands for those of one batch."""
    starts: tuple[str, ...] = STARTS
    is_trained: bool = True

    def unknown_settings(self) -> list[str]:
        """Returns the settings that this version of the package does not have. With any, the arm cannot run."""
        unknown = [name for name in self.config if name not in BetaCLIPConfig.__dataclass_fields__]
        unknown += [name for name in self.collator if name not in BetaCLIPDataCollator.__dataclass_fields__]
        return unknown

    def settings(self) -> dict[str, Any]:
        """Returns everything that makes this arm, ready for JSON."""
        return {"config": dict(self.config), "collator": dict(self.collator), "contrast": self.contrast}


GROUPS = {
    "reference": "the references",
    "positives": "more positives without conditioning",
    "beta": "β and the form of the loss",
    "texts": "the number of texts of an image",
    "order": "sampled captions",
    "mismatched": "mismatched-condition negatives",
    "pooler": "the pooler",
    "masking": "identical texts of other images",
    "contrast": "the size of the contrast",
    "regions": "regions and hard negatives",
    "debias": "DeBias-CLIP's collator modes",
    "short": "short captions in training",
    "relations": "relations",
    "recipe": "everything that helps, at once",
}


def _plain(name: str, group: str, description: str, **settings: Any) -> Arm:
    """Makes an arm without text conditioning."""
    config = _PLAIN_CONFIG | settings.pop("config", {})
    collator = _PLAIN_COLLATOR | settings.pop("collator", {})
    return Arm(name, group, description, config, collator, **settings)


def _varied(name: str, group: str, description: str, **settings: Any) -> Arm:
    """Makes an arm that differs from the base in the settings given."""
    config = _BASE_CONFIG | settings.pop("config", {})
    collator = _BASE_COLLATOR | settings.pop("collator", {})
    return Arm(name, group, description, config, collator, **settings)


# In this order the arms run: those that most answers rest on come first.
_ARMS = (
    _plain("before", "reference", "the plain CLIP before fine-tuning", starts=("finetune",), is_trained=False),
    _plain("plain", "reference", "plain CLIP: image and whole caption"),
    _varied(BASE, "reference", "β-CAL with cross-entropy, β = 0.5, 12 texts of an image, 2 heads"),
    _varied(
        "recommended",
        "recipe",
        "β-CAL, more positives of CLS, short captions, regions, hard negatives and false texts",
        config=_RECIPE["model"]["config"],
        collator=_RECIPE["data"],
    ),
    _varied(
        "recommended_captions",
        "recipe",
        "the part of it that needs captions alone: β-CAL, more positives of CLS, short captions",
        config={name: _RECIPE["model"]["config"][name] for name in _RECIPE_LOSSES_OF_CAPTIONS},
        collator={name: _RECIPE["data"][name] for name in _RECIPE_TEXTS_OF_CAPTIONS},
    ),
    _varied("bce", "beta", "β-CAL with binary cross-entropy, β = 0.5", config={"alignment_loss": "bce"}),
    _varied("ce_b0", "beta", "cross-entropy, β = 0", config={"beta": 0.0}),
    _varied("ce_b1", "beta", "cross-entropy, β = 1", config={"beta": 1.0}),
    _varied("bce_b0", "beta", "binary cross-entropy, β = 0", config={"alignment_loss": "bce", "beta": 0.0}),
    _varied("bce_b1", "beta", "binary cross-entropy, β = 1", config={"alignment_loss": "bce", "beta": 1.0}),
    _varied("ce_b025", "beta", "cross-entropy, β = 0.25", config={"beta": 0.25}),
    _plain(
        "positives",
        "positives",
        "sentences and phrases as more positives of CLIP's loss, without conditioning",
        config={"text_clip_loss_weight": 1.0},
        collator=_BASE_COLLATOR,
    ),
    _varied(
        "mismatched_01",
        "mismatched",
        "mismatched-condition negatives at weight 0.1",
        config={"text_conditioned_loss_weight": 0.1},
    ),
    _varied(
        "mismatched_1",
        "mismatched",
        "mismatched-condition negatives at weight 1",
        config={"text_conditioned_loss_weight": 1.0},
    ),
    _plain(
        "plain_regions",
        "regions",
        "plain CLIP with regions and hard negatives",
        config={"use_regions": True},
        collator={"num_regions": 4},
    ),
    _varied(
        "ce_regions",
        "regions",
        "β-CAL with regions and hard negatives",
        config={"use_regions": True},
        collator={"num_regions": 4},
    ),
    _varied(
        "both_systems",
        "regions",
        "β-CAL with all of FG-CLIP: regions, hard negatives, short captions, two text paths",
        config={"use_regions": True, "use_long_text_path": True},
        collator={"num_regions": 4, "include_short_caption": True},
    ),
    _varied("ce_k1", "texts", "cross-entropy, the caption alone", collator={"caption_mode": "caption_only"}),
    _varied("ce_k6", "texts", "cross-entropy, caption and sentences", collator={"num_phrases": 0}),
    _varied("ce_k36", "texts", "cross-entropy, caption, sentences and up to 30 phrases", collator={"num_phrases": 30}),
    _varied(
        "ce_b0_k36",
        "texts",
        "cross-entropy, β = 0, up to 30 phrases",
        config={"beta": 0.0},
        collator={"num_phrases": 30},
    ),
    _varied(
        "bce_k1",
        "texts",
        "binary cross-entropy, the caption alone",
        config={"alignment_loss": "bce"},
        collator={"caption_mode": "caption_only"},
    ),
    _varied(
        "bce_k6",
        "texts",
        "binary cross-entropy, caption and sentences",
        config={"alignment_loss": "bce"},
        collator={"num_phrases": 0},
    ),
    _varied(
        "bce_k36",
        "texts",
        "binary cross-entropy, up to 30 phrases",
        config={"alignment_loss": "bce"},
        collator={"num_phrases": 30},
    ),
    _varied("heads_1", "pooler", "pooler with 1 head", config={"pooler_num_attention_heads": 1}),
    _varied("heads_4", "pooler", "pooler with 4 heads", config={"pooler_num_attention_heads": 4}),
    _varied("heads_8", "pooler", "pooler with 8 heads", config={"pooler_num_attention_heads": 8}),
    _varied("qkv_norm", "pooler", "LayerNorm on queries, keys and values", config={"pooler_qkv_layer_norm": True}),
    _varied("null_token", "pooler", "null token in the pooler", config={"pooler_null_token": True}),
    _varied("contrast_64", "contrast", "contrast of 64 images", contrast=64, starts=("finetune",)),
    _varied("contrast_256", "contrast", "contrast of 256 images", contrast=256),
    _varied("contrast_1024", "contrast", "contrast of 1,024 images", contrast=1024),
    _varied(
        "mask_identical",
        "masking",
        "identical texts of other images are no negatives",
        config={"mask_identical_texts": True},
    ),
    _varied(
        "sampled_reading",
        "order",
        "drawn sentences as the caption, in reading order",
        collator={"caption_mode": "sampled", "num_sentences": 3, "sentence_order": "reading"},
    ),
    _varied(
        "sampled_random",
        "order",
        "drawn sentences as the caption, in random order",
        collator={"caption_mode": "sampled", "num_sentences": 3, "sentence_order": "random"},
    ),
    _varied(
        "drop_first",
        "debias",
        "the first sentence left out of half of the captions",
        collator={"drop_first_sentence_probability": 0.5},
    ),
    _varied(
        "drop_first_padded",
        "debias",
        "the first sentence left out of half of the captions, and half of the captions moved behind padding",
        collator={"drop_first_sentence_probability": 0.5, "prefix_padding_probability": 0.5},
    ),
    _varied("short_half", "short", "half of the rows are short pairs", collator={"short_caption_probability": 0.5}),
    _varied(
        "text_negatives",
        "relations",
        "generated false captions and phrases as negatives of CLS",
        config={"text_negative_loss_weight": 1.0},
        collator={"num_caption_negatives": 2, "num_phrase_negatives": 2},
    ),
    _varied(
        "conditioned_negatives",
        "relations",
        "generated false captions and phrases as negatives of the text-conditioned score",
        config={"conditioned_negative_loss_weight": 1.0},
        collator={"num_caption_negatives": 2, "num_phrase_negatives": 2},
    ),
    _varied(
        "both_negatives",
        "relations",
        "generated false captions and phrases as negatives of both scores",
        config={"text_negative_loss_weight": 1.0, "conditioned_negative_loss_weight": 1.0},
        collator={"num_caption_negatives": 2, "num_phrase_negatives": 2},
    ),
)

ARMS = {arm.name: arm for arm in _ARMS}
"""Name → arm."""
