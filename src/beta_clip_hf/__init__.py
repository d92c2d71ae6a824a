"""
β-CLIP, FG-CLIP and FG-CLIP 2 for the transformers library: models, losses, text hierarchies, data, training.

The files of the model are imported here, so that `AutoModel` and the other Auto classes know them. Names that need text
tools, data sets or the Trainer are imported when they are first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from .files import replacing
from .model import adapters_beta_clip, encoding_beta_clip, remote_code_beta_clip
from .model.configuration_beta_clip import BetaCLIPConfig, Granularity
from .model.configuration_beta_siglip2 import BetaSiglip2Config
from .model.loss_beta_clip import (
    beta_cal_loss,
    clip_loss,
    hard_negative_loss,
    region_loss,
    text_conditioned_loss,
    text_negative_loss,
)
from .model.loss_beta_siglip2 import RankLoss, hard_contrast_loss, intra_text_loss, rank_loss, sigmoid_loss
from .model.modeling_beta_clip import BetaCLIPModel, BetaCLIPOutput
from .model.modeling_beta_siglip2 import BetaSiglip2Model
from .model.patch_map_beta_clip import PatchMap
from .model.pooler_beta_clip import TextConditionedPooler
from .model.processing_beta_clip import BetaCLIPProcessor
from .model.processing_beta_siglip2 import BetaSiglip2Processor
from .version import __version__ as __version__


if TYPE_CHECKING:
    from torch import Tensor

    from . import scenes
    from .data.collator import BetaCLIPDataCollator
    from .data.scenes import SceneDataset
    from .text.hierarchy import TextHierarchy, build_text_hierarchy
    from .text.phrases import PhraseExtractor
    from .text.sentences import split_sentences
    from .training.arguments import BetaCLIPTrainingArguments
    from .training.trainer import BetaCLIPTrainer

_HOME_OF_LAZY_NAMES = {
    "BetaCLIPDataCollator": ".data.collator",
    "BetaCLIPTrainer": ".training.trainer",
    "BetaCLIPTrainingArguments": ".training.arguments",
    "PhraseExtractor": ".text.phrases",
    "SceneDataset": ".data.scenes",
    "TextHierarchy": ".text.hierarchy",
    "build_text_hierarchy": ".text.hierarchy",
    "split_sentences": ".text.sentences",
}

AutoConfig.register(BetaCLIPConfig.model_type, BetaCLIPConfig)
AutoModel.register(BetaCLIPConfig, BetaCLIPModel)
AutoModelForZeroShotImageClassification.register(BetaCLIPConfig, BetaCLIPModel)
AutoProcessor.register(BetaCLIPConfig, BetaCLIPProcessor)
AutoConfig.register(BetaSiglip2Config.model_type, BetaSiglip2Config)
AutoModel.register(BetaSiglip2Config, BetaSiglip2Model)
AutoModelForZeroShotImageClassification.register(BetaSiglip2Config, BetaSiglip2Model)
AutoProcessor.register(BetaSiglip2Config, BetaSiglip2Processor)


def _write_card(folder: Path, repo_id: str, tags: Any, revision: str | None) -> None:
    """Writes the card of the model in a folder."""
    # Imported here, because a card is written when a model is pushed, and its code takes a while to import.
    from .release.model_card import render_card

    card = render_card(folder, repo_id, revision=revision, tags=tags)
    with replacing(folder / "README.md") as unfinished:
        card.save(unfinished)


def _encode(model: BetaCLIPModel, images: Any, texts: Any, settings: encoding_beta_clip.EncodingSettings) -> "Tensor":
    """Encodes images or texts with a model."""
    # Imported here: most users of a model read its images and texts themselves.
    from .inference.encode import encode

    return encode(model, images, texts, settings)


def _read_adapter(source: Any, model_class: Any, **kwargs: Any) -> Any:
    """Loads the model of an adapter's directory."""
    # Imported here: few directories hold an adapter.
    from .inference.adapters import read_adapter

    return read_adapter(source, model_class, **kwargs)


# The core calls these functions when it pushes a model, encodes images and texts, or finds an adapter. It cannot import
# the code for them, which stands on the core.
adapters_beta_clip.read_adapter = _read_adapter
remote_code_beta_clip.write_card = _write_card
encoding_beta_clip.encoder = _encode


def __getattr__(name: str) -> Any:
    if name == "scenes":
        # Importing a module makes it an attribute of its package.
        return import_module(".scenes", __name__)
    if name not in _HOME_OF_LAZY_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF_LAZY_NAMES[name], __name__), name)
    # Python asks this function only for names that are not there yet.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
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
    "beta_cal_loss",
    "build_text_hierarchy",
    "clip_loss",
    "hard_contrast_loss",
    "hard_negative_loss",
    "intra_text_loss",
    "rank_loss",
    "region_loss",
    "scenes",
    "sigmoid_loss",
    "split_sentences",
    "text_conditioned_loss",
    "text_negative_loss",
]
