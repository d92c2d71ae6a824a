"""Renders the model card of a directory from what training and evaluation have left in it, and from nothing else."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..files import naming_errors
from ..model.adapters_beta_clip import is_adapter
from ..model.configuration_beta_siglip2 import SIGLIP_TEXT_POSITIONS, BetaSiglip2Config
from .citations import PAPERS, SOFTWARE
from .results_table import eval_results, result_rows, results_note
from .run_files import RECORDS, RunFiles
from .training_lines import training_lines


TEMPLATE = Path(__file__).parent / "model_card_template.md"
UNKNOWN_LICENCE = "unknown"
# What the code that a repository carries needs, at the versions that this package needs.
REQUIREMENTS = "transformers>=5.17,<6 torch>=2.6 pillow>=10.1"


@dataclass(frozen=True)
class CardFields:
    """
    Holds what a card cannot know by itself. Fields that `Trainer.create_model_card` of transformers has too have the
    same names here.

    Args:
        license: Licence of the weights, an identifier of the Hub such as `apache-2.0`. It depends on the data and on
            the model that they were trained from, so nothing is assumed.
        data_license: Licence of the training data. `None` takes the recorded one, if there is any.
        language: Language of the texts, such as `en`; one or several.
        tags: Tags in addition to those of the model's methods.
        model_name: Name of the model. `None` takes the name of the repository.
        finetuned_from: Id of the model that it was trained from. `None` takes the recorded one.
        dataset_tags: Ids of the data sets that it was trained on. `None` takes the recorded ones.
    """

    license: str = UNKNOWN_LICENCE
    data_license: str | None = None
    language: str | list[str] | None = None
    tags: str | list[str] | None = None
    model_name: str | None = None
    finetuned_from: str | None = None
    dataset_tags: str | list[str] | None = None


def render_card(
    folder: Path, repo_id: str, *, revision: str | None = None, run: RunFiles | None = None, **fields: Any
) -> ModelCard:
    """
    Renders the card of a model directory.

    It reads `train_config.json`, `train_results.json` and `results.json` (beside the model or in its folder
    `evaluation`), as far as they are about these weights. The card says what was not measured or recorded, and leaves
    out scores on training images.

    Args:
        folder: Directory of the model.
        repo_id: Id of the repository, which the code in the card names.
        revision: Hash of the commit with the code and the weights, which the code in the card names. It is known only
            once they are uploaded; without it the card asks its reader to name one.
        run: The records of the directory, if they have been read.
        fields: Fields of [`CardFields`].

    Raises:
        ValueError: if the folder is no model directory, or a record in it is damaged.
        TypeError: for a field that [`CardFields`] does not have.
    """
    card_fields = CardFields(**fields)
    run = run or RunFiles.read(folder)
    # A record may hold anything where a number or a name belongs.
    with naming_errors(folder, RECORDS):
        return _render(folder, repo_id, revision, run, card_fields)


def _render(folder: Path, repo_id: str, revision: str | None, run: RunFiles, card_fields: CardFields) -> ModelCard:
    name = card_fields.model_name or repo_id.rpartition("/")[2]
    # The code in the card embeds a caption, which has a path of its own in some models.
    long_path = ""
    if run.config.get("use_long_text_path") or _is_siglip2(run.config):
        long_path = ', path="long"'
    recipe = ""
    if run.training:
        # Paths of this machine and tokens of the Hub stay here.
        recipe = json.dumps(run.public(run.training), indent=2, ensure_ascii=False)
    # Lists, not iterators: the template asks whether there are results, and an iterator is always true.
    return ModelCard.from_template(
        _card_head(run, card_fields, name, library="peft" if is_adapter(folder) else "transformers"),
        template_path=str(TEMPLATE),
        name=name,
        summary=_summary(run.config),
        repo_id=repo_id,
        is_adapter=is_adapter(folder),
        family="BetaSiglip2" if _is_siglip2(run.config) else "BetaCLIP",
        revision=revision,
        requirements=REQUIREMENTS,
        long_path=long_path,
        has_pooler=_has_pooler(run.config),
        model_lines=list(_model_lines(run.config)),
        training_lines=list(
            training_lines(run, base=card_fields.finetuned_from, data_names=_as_list(card_fields.dataset_tags))
        ),
        recipe=recipe,
        results=list(result_rows(run.results)),
        results_note=results_note(run.results),
        results_notes=list(run.results_notes),
        limits=list(_limit_lines(run)),
        licence_lines=list(_licence_lines(run, card_fields)),
        citations=_citations(run.config),
    )


def _card_head(run: RunFiles, card_fields: CardFields, name: str, library: str) -> ModelCardData:
    """Returns the metadata at the head of a card, which the Hub reads."""
    results: list[Any] | None = list(eval_results(run.results))
    if not results and not card_fields.model_name:
        # An empty list would make an entry that holds the name alone.
        results = None
    # The Hub takes ids of models and data sets only. A path of this machine would make the metadata invalid.
    base_model = card_fields.finetuned_from or next(iter(run.hub_ids(run.base)), None)
    tags = [*_method_tags(run.config), *_as_list(card_fields.tags)]
    datasets = _as_list(card_fields.dataset_tags) or run.hub_ids(*run.train_data)
    return ModelCardData(
        language=card_fields.language,
        library_name=library,
        license=card_fields.license,
        pipeline_tag="zero-shot-image-classification",
        # Each tag once, in the order of the list.
        tags=list(dict.fromkeys(tags)),
        base_model=base_model,
        datasets=datasets or None,
        model_name=name,
        eval_results=results,
    )


def _as_list(value: str | list[str] | None) -> list[str]:
    # A string is also a sequence, of its letters.
    if isinstance(value, str):
        return [value]
    return list(value or ())


def _is_siglip2(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == BetaSiglip2Config.model_type


def _has_pooler(config: Mapping[str, Any]) -> bool:
    # A setting that the file does not have keeps its default in `BetaCLIPConfig`: True here, False for regions.
    return bool(config.get("use_pooler", True))


def _has_regions(config: Mapping[str, Any]) -> bool:
    return bool(config.get("use_regions", False))


def _method_tags(config: Mapping[str, Any]) -> list[str]:
    tags = ["siglip2" if _is_siglip2(config) else "clip", "image-text-retrieval", "long-captions"]
    if _has_pooler(config):
        tags.append("beta-clip")
    if _has_regions(config):
        tags.append("fg-clip-2" if _is_siglip2(config) else "fg-clip")
    return tags


def _citations(config: Mapping[str, Any]) -> list[str]:
    entries = [SOFTWARE]
    if _has_pooler(config):
        entries.append(PAPERS["beta_clip"])
    if _has_regions(config):
        entries.append(PAPERS["fg_clip2" if _is_siglip2(config) else "fg_clip"])
    return entries


def _summary(config: Mapping[str, Any]) -> str:
    methods = []
    if _has_pooler(config):
        methods.append("β-CLIP")
    if _has_regions(config):
        methods.append("FG-CLIP")
    method = " and ".join(methods) or "CLIP"
    if _is_siglip2(config):
        method = f"{' and '.join(methods).replace('FG-CLIP', 'FG-CLIP 2')} SigLIP 2".strip()
    summary = f"A {method} model: it embeds images and texts, also long captions, in one space."
    if _has_pooler(config):
        summary = f"{summary} A text-conditioned pooler embeds an image anew for each text."
    return summary


def _model_lines(config: Mapping[str, Any]) -> Iterator[str]:
    vision = config.get("vision_config", {})
    if _is_siglip2(config):
        yield from _siglip2_lines(config)
        return
    size = vision.get("image_size")
    yield (
        f"Images of {size} × {size} pixels in patches of {vision.get('patch_size')}; "
        f"embeddings of {config.get('projection_dim')} numbers."
    )
    positions = config.get("text_config", {}).get("max_position_embeddings")
    if config.get("use_long_text_path"):
        long_positions = config.get("long_text_max_position_embeddings")
        yield f"Texts of up to {long_positions} tokens; short texts have a path of their own, of {positions}."
    else:
        yield f"Texts of up to {positions} tokens."
    if _has_pooler(config):
        yield f"Text-conditioned pooler of {config.get('pooler_num_attention_heads')} heads."
    if _has_regions(config):
        yield "Regions: RoIAlign of the patch features, with logit scales of their own."


def _siglip2_lines(config: Mapping[str, Any]) -> Iterator[str]:
    vision = config.get("vision_config", {})
    positions = config.get("text_config", {}).get("max_position_embeddings", SIGLIP_TEXT_POSITIONS)
    patch_size, width = vision.get("patch_size"), vision.get("hidden_size")
    yield f"Images of any shape in patches of {patch_size}; embeddings of {width} numbers."
    yield (
        f"Texts in lower case, padded to all positions of their path: {positions} (short captions; texts of boxes) or "
        f"{config.get('long_text_max_position_embeddings')} (long captions)."
    )
    if _has_pooler(config):
        yield f"Text-conditioned pooler of {config.get('pooler_num_attention_heads')} heads."
    if _has_regions(config):
        yield "Regions (FG-CLIP 2, arXiv:2510.10921): RoIAlign of the patch features, with logit scales of their own."


def _limit_lines(run: RunFiles) -> Iterator[str]:
    # True of every model of this kind, whatever it was trained on.
    yield "Cosines rank texts and images. They are not probabilities, and they do not measure truth."
    yield "The model has the biases of its data and of the model that it started from. It is not for judging people."
    yield "Order and number of objects, negation and spatial relations are weak points of models of this kind."
    if not run.results:
        yield "Its quality is not known: no evaluation of these weights on other images was found beside them."


def _licence_lines(run: RunFiles, card_fields: CardFields) -> Iterator[str]:
    # No licence is guessed: the weights may be bound by licences that are not known here.
    if card_fields.license == UNKNOWN_LICENCE:
        yield "The weights: not stated. They may be bound by the licence of the model that they were trained from."
    else:
        yield f"The weights: `{card_fields.license}`."
    data_licence = card_fields.data_license or (run.record.get("data") or {}).get("licence")
    if data_licence:
        yield f"The training data: `{data_licence}`."
    else:
        yield "The training data: its licence is not known here, and the weights may be bound by it."
    yield "The code: Apache-2.0."


__all__ = ["REQUIREMENTS", "UNKNOWN_LICENCE", "CardFields", "render_card"]
