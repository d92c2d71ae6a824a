"""The model card of a directory: rendered from what training and evaluation have left in it, and from nothing else."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData


TEMPLATE = Path(__file__).parent / "model_card_template.md"
UNKNOWN_LICENCE = "unknown"
# The figures that a card shows of each task, by the ends of their names.
SHOWN = (
    "cls/image_to_text/R@1",
    "cls/text_to_image/R@1",
    "all_pairs/text_to_image/R@1",
    "accuracy",
    "top1",
    "attention/pointing",
    "region/grounding",
)
LONG_CAPTIONS_ONLY = (
    "Retrieval with short captions (COCO, Flickr30k) was not measured: fine-tuning on long captions may have lost some "
    "of it."
)
PAPERS = {
    "beta_clip": """@article{betaclip2025,
  title = {β-CLIP: Text-Conditioned Contrastive Learning for Multi-Granular Vision-Language Alignment},
  journal = {arXiv preprint arXiv:2512.12678},
  year = {2025}
}""",
    "fg_clip": """@article{fgclip2025,
  title = {FG-CLIP: Fine-Grained Visual and Textual Alignment},
  journal = {arXiv preprint arXiv:2505.05071},
  year = {2025}
}""",
}


@dataclass(frozen=True)
class RunFiles:
    """What is in a directory, as far as it is there: all of it JSON that this package has written."""

    config: Mapping[str, Any]
    training: Mapping[str, Any]
    trained: Mapping[str, Any]
    results: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "RunFiles":
        """
        Reads a model directory; results may be in it or in its folder `evaluation`.

        Raises:
            ValueError: where there is no `config.json`.
        """
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} must be a model directory with a config.json, but is not")
        places = (folder / "results.json", folder / "evaluation" / "results.json")
        results = next((place for place in places if place.exists()), None)
        return cls(
            config=_json(folder / "config.json"),
            training=without_paths(_json(folder / "train_config.json")),
            trained=_json(folder / "train_results.json"),
            results=_json(results) if results else {},
        )


def render_card(folder: Path, repo_id: str, *, licence: str = UNKNOWN_LICENCE) -> ModelCard:
    """
    The card of a model directory.

    Args:
        folder: Of the model; `train_config.json`, `train_results.json` and `results.json` (of it or of its folder
            `evaluation`) are used where they are there. What was not measured is said to be so.
        repo_id: Where it goes: the code to use it names it.
        licence: Of the weights, an identifier of the Hub such as `apache-2.0`. It depends on the data and on the model
            that they were trained from: nothing is assumed.

    Raises:
        ValueError: where the folder is no model directory.
    """
    run = RunFiles.read(folder)
    settings = run.training.get("model", {})
    base = settings.get("from_pretrained")
    data = ModelCardData(
        library_name="transformers",
        license=licence,
        pipeline_tag="zero-shot-image-classification",
        tags=_tags(run.config),
        base_model=base if _is_hub_id(base) else None,
        datasets=[one for one in [run.training.get("data", {}).get("train")] if _is_hub_id(one)] or None,
        model_name=repo_id.rpartition("/")[2],
        eval_results=list(eval_results(run.results)) or None,
    )
    has_pooler, has_regions = run.config.get("use_pooler", True), run.config.get("use_regions", False)
    methods = [name for name, has in (("β-CLIP", has_pooler), ("FG-CLIP", has_regions)) if has] or ["CLIP"]
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=repo_id.rpartition("/")[2],
        summary=f"A {' and '.join(methods)} model: images and texts, long captions too, in one space."
        + (" A text-conditioned pooler embeds an image anew for each text." if has_pooler else ""),
        repo_id=repo_id,
        long_path=', path="long"' if run.config.get("use_long_text_path") else "",
        has_pooler=has_pooler,
        model_lines=list(_model_lines(run.config)),
        training_lines=list(_training_lines(run)),
        recipe=json.dumps(run.training, indent=2, ensure_ascii=False) if run.training else "",
        results=list(result_rows(run.results)),
        results_note=results_note(run.results),
        limits=list(_limits(run)),
        licence_note=_licence_note(licence),
        citations=[PAPERS[name] for name, has in (("beta_clip", has_pooler), ("fg_clip", has_regions)) if has],
    )


def _tags(config: Mapping[str, Any]) -> list[str]:
    tags = ["clip", "image-text-retrieval", "long-captions"]
    tags += ["beta-clip"] if config.get("use_pooler", True) else []
    return tags + (["fg-clip"] if config.get("use_regions") else [])


def _model_lines(config: Mapping[str, Any]) -> Iterable[str]:
    vision, text = config.get("vision_config", {}), config.get("text_config", {})
    size, patch = vision.get("image_size"), vision.get("patch_size")
    width = config.get("projection_dim")
    yield f"Images of {size} × {size} pixels in patches of {patch}; embeddings of {width} numbers."
    long_path = config.get("use_long_text_path")
    positions = config.get("long_text_max_position_embeddings") if long_path else text.get("max_position_embeddings")
    yield f"Texts of up to {positions} tokens" + (
        f"; short texts have a path of their own, of {text.get('max_position_embeddings')}." if long_path else "."
    )
    if config.get("use_pooler", True):
        loss = f"β-CAL ({config.get('alignment_loss')}, β = {config.get('beta')})"
        yield f"Text-conditioned pooler of {config.get('pooler_num_attention_heads')} heads, trained with {loss}."
    if config.get("use_regions"):
        yield "Regions: RoIAlign of the patch features, with logit scales of their own."
    weights = {name: value for name, value in config.items() if name.endswith("_loss_weight") and value}
    if weights:
        yield "Weights of the losses: " + ", ".join(f"`{name[:-7]}` {value:g}" for name, value in weights.items()) + "."


def _training_lines(run: RunFiles) -> Iterable[str]:
    if not run.training:
        yield "Not trained by `beta-clip train`: nothing is known here."
        return
    base, data = run.training.get("model", {}).get("from_pretrained"), run.training.get("data", {})
    yield f"Started from `{base}`." if base else "Started from random weights."
    yield f"Trained on `{data.get('train')}`."
    metrics = run.trained.get("train") or {}
    if "train_runtime" in metrics:
        rate = metrics.get("train_samples_per_second")
        yield f"{metrics['train_runtime']:,.0f} seconds" + (f", {rate:g} images per second." if rate else ".")
    for name, of_process in (("before", run.trained.get("before")), ("after", run.trained.get("after"))):
        recalls = {key: value for key, value in (of_process or {}).items() if key.endswith(("i2t_r1", "t2i_r1"))}
        if recalls:
            shown = ", ".join(f"{key.removeprefix('eval_')} {100 * value:.1f}" for key, value in recalls.items())
            yield f"Retrieval on the evaluation rows {name} training, per cent: {shown}."
    skipped = sum((run.trained.get("skipped_rows") or {}).values())
    if skipped:
        yield f"{skipped} rows could not be used and were skipped."


def _shown_figures(results: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any], str, Mapping[str, Any]]]:
    for task, result in results.get("tasks", {}).items():
        for name, figure in result["figures"].items():
            if name.endswith(SHOWN):
                yield task, result, name, figure


def result_rows(results: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for task, result, name, figure in _shown_figures(results):
        low, high = figure["low"], figure["high"]
        interval = "" if low is None else f"{100 * low:.1f} – {100 * high:.1f}"
        chance = "" if figure["chance"] is None else f"{100 * figure['chance']:.1f}"
        value = f"{100 * figure['value']:.1f}"
        yield task, result["protocol"], f"`{name}`", value, interval, chance, f"{figure['count']:,}"


def eval_results(results: Mapping[str, Any]) -> Iterable[EvalResult]:
    for task, result, name, figure in _shown_figures(results):
        yield EvalResult(
            task_type="image-text-retrieval" if "R@" in name else "zero-shot-image-classification",
            dataset_type=task,
            dataset_name=result["protocol"],
            metric_type=name,
            metric_value=round(100 * figure["value"], 2),
        )


def results_note(results: Mapping[str, Any]) -> str:
    if not results:
        return ""
    environment = results.get("environment", {})
    where = (
        f"{environment.get('hardware')}, {results.get('settings', {}).get('dtype')}, torch {environment.get('torch')}"
    )
    has_short = any(task in results["tasks"] for task in ("coco", "flickr30k"))
    has_short = has_short or any(name.startswith("short/") for _, _, name, _ in _shown_figures(results))
    return f"Measured on {where}." + ("" if has_short else f" {LONG_CAPTIONS_ONLY}")


def _limits(run: RunFiles) -> Iterable[str]:
    yield "Cosines rank texts and images; they are no probabilities, and no measure of truth."
    yield "It has the biases of its data and of the model that it started from. It is not for judging people."
    yield "Order and number of objects, negation and spatial relations are weak points of models of this kind."
    if not run.results:
        yield "Nothing is known of its quality: no evaluation was found beside the weights."


def _licence_note(licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return (
            "Not stated. The weights may be bound by the licences of the training data and of the model that they were "
            "trained from; the code is Apache-2.0."
        )
    return f"The weights: `{licence}`. The code: Apache-2.0."


def _is_hub_id(name: Any) -> bool:
    """Whether a name can be one of the Hub. Of a path only the last part has been left, see [`without_paths`]."""
    return isinstance(name, str) and name.count("/") == 1


def without_paths(value: Any) -> Any:
    """The value with the last part of each path of this machine alone: the rest is nobody's business."""
    if isinstance(value, dict):
        return {name: without_paths(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    if not isinstance(value, str) or "/" not in value:
        return value
    is_path = value[0] in "./~" or value.count("/") > 1 or Path(value).exists()
    return Path(value).name if is_path and not value.startswith("http") else value


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
