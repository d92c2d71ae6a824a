"""The model card of a directory: rendered from what training and evaluation have left in it, and from nothing else."""

import json
import os
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
    "beta_clip": """@inproceedings{zohra2026betaclip,
  title = {β-CLIP: Text-Conditioned Contrastive Learning for Multi-Granular Vision-Language Alignment},
  author = {Zohra, Fatimah and Zhao, Chen and Itani, Hani and Ghanem, Bernard},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2026},
  note = {arXiv:2512.12678}
}""",
    "fg_clip": """@inproceedings{xie2025fgclip,
  title = {FG-CLIP: Fine-Grained Visual and Textual Alignment},
  author = {Xie, Chunyu and Wang, Bin and Kong, Fanjing and Li, Jincheng and Liang, Dawei and Zhang, Gengshen and
            Leng, Dawei and Yin, Yuhui},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  note = {arXiv:2505.05071}
}""",
}
SOFTWARE = """@software{beta_clip_hf,
  title = {beta-clip-hf: β-CLIP for the transformers library},
  author = {{The beta-clip-hf authors}},
  year = {2026}
}"""


@dataclass(frozen=True)
class CardFields:
    """
    What a card cannot know by itself. Those that `Trainer.create_model_card` of transformers has too are called as
    there.

    Args:
        license: Of the weights, an identifier of the Hub such as `apache-2.0`. It depends on the data and on the model
            that they were trained from: nothing is assumed.
        data_license: Of the training data; by default what the run has recorded of it, if anything.
        language: Of the texts, as `en`; one or several.
        tags: Beside those that the model has by its methods.
        model_name: By default the name of the repository.
        finetuned_from: Id of the model that it was trained from, by default as recorded.
        dataset_tags: Ids of the data sets that it was trained on, by default as recorded.
    """

    license: str = UNKNOWN_LICENCE
    data_license: str | None = None
    language: str | list[str] | None = None
    tags: str | list[str] | None = None
    model_name: str | None = None
    finetuned_from: str | None = None
    dataset_tags: str | list[str] | None = None


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
            training=_json(folder / "train_config.json"),
            trained=_json(folder / "train_results.json"),
            results=_json(results) if results else {},
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """What the Trainer has said of the run, see `describe_run` in `training/run_record.py`."""
        return self.trained.get("run") or {}

    @property
    def base(self) -> str | None:
        return (self.training.get("model") or {}).get("from_pretrained")

    @property
    def train_data(self) -> list[str]:
        """The names of the training data."""
        data = (self.training.get("data") or {}).get("train")
        data = data.get("source") if isinstance(data, Mapping) else data
        return [data] if isinstance(data, str) else list(data or ())

    def hub_ids(self, *names: str | None) -> list[str]:
        """Those of some names that were found on the Hub as the run began. Of an unknown one it is never assumed."""
        return [name for name in names if name and name in self.record.get("hub_ids", ())]

    def public(self, value: Any) -> Any:
        """
        What may leave this machine of a part of these files: of each path its last part alone, no tokens of the Hub.
        """
        if isinstance(value, Mapping):
            return {name: self.public(one) for name, one in value.items() if not name.endswith("_token")}
        if isinstance(value, list):
            return [self.public(one) for one in value]
        if not isinstance(value, str) or not {"/", os.sep} & set(value) or value.startswith(("http://", "https://")):
            return value
        protocols = {task["protocol"] for task in self.results.get("tasks", {}).values()}
        return value if value in protocols or self.hub_ids(value) else Path(value).name


def render_card(folder: Path, repo_id: str, **fields: Any) -> ModelCard:
    """
    The card of a model directory.

    Args:
        folder: Of the model; `train_config.json`, `train_results.json` and `results.json` (of it or of its folder
            `evaluation`) are used where they are there. What was not measured is said to be so.
        repo_id: Where it goes: the code to use it names it.
        fields: Those of [`CardFields`].

    Raises:
        ValueError: where the folder is no model directory.
        TypeError: for another field.
    """
    run, given = RunFiles.read(folder), CardFields(**fields)
    has_pooler, has_regions = run.config.get("use_pooler", True), run.config.get("use_regions", False)
    name = given.model_name or repo_id.rpartition("/")[2]
    results = list(eval_results(run.results))
    data = ModelCardData(
        language=given.language,
        library_name="transformers",
        license=given.license,
        pipeline_tag="zero-shot-image-classification",
        tags=list(dict.fromkeys([*_tags(run.config), *_listed(given.tags)])),
        base_model=given.finetuned_from or next(iter(run.hub_ids(run.base)), None),
        datasets=_listed(given.dataset_tags) or run.hub_ids(*run.train_data) or None,
        model_name=name,
        # An empty list makes an entry with the name alone.
        eval_results=results or ([] if given.model_name else None),
    )
    methods = [method for method, has in (("β-CLIP", has_pooler), ("FG-CLIP", has_regions)) if has] or ["CLIP"]
    papers = [PAPERS[paper] for paper, has in (("beta_clip", has_pooler), ("fg_clip", has_regions)) if has]
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        summary=f"A {' and '.join(methods)} model: images and texts, long captions too, in one space."
        + (" A text-conditioned pooler embeds an image anew for each text." if has_pooler else ""),
        repo_id=repo_id,
        long_path=', path="long"' if run.config.get("use_long_text_path") else "",
        has_pooler=has_pooler,
        model_lines=list(_model_lines(run.config)),
        training_lines=list(_training_lines(run, given)),
        recipe=json.dumps(run.public(run.training), indent=2, ensure_ascii=False) if run.training else "",
        results=list(result_rows(run.results)),
        results_note=results_note(run.results),
        limits=list(_limits(run)),
        licence_lines=list(_licence_lines(run, given)),
        citations=[SOFTWARE, *papers],
    )


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


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
        yield f"Text-conditioned pooler of {config.get('pooler_num_attention_heads')} heads."
    if config.get("use_regions"):
        yield "Regions: RoIAlign of the patch features, with logit scales of their own."


def _training_lines(run: RunFiles, given: CardFields) -> Iterable[str]:
    if not run.training and not run.trained:
        yield "Nothing is recorded of its training."
        return
    base = given.finetuned_from or run.public(run.base)
    if base:
        yield f"Started from `{base}`."
    elif (run.training.get("model") or {}).get("from_scratch"):
        yield "Started from random weights."
    else:
        yield "What it started from is not recorded."
    yield _data_line(run, given)
    yield from _loss_lines(run)
    metrics = run.trained.get("train") or {}
    if "steps" in run.record:
        epochs = f", {metrics['epoch']:,.3g} epochs" if "epoch" in metrics else ""
        yield f"{run.record['steps']:,} steps of {run.record['images_per_step']:,} images{epochs}."
    yield _hardware_line(run.record.get("environment"))
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


def _data_line(run: RunFiles, given: CardFields) -> str:
    data = (run.training.get("data") or {}).get("train")
    names = ", ".join(f"`{name}`" for name in _listed(given.dataset_tags) or run.public(run.train_data))
    if isinstance(data, Mapping) and "scenes" in data:
        names = f'generated scenes of level "{data.get("level", "medium")}"'
    rows = (run.record.get("data") or {}).get("rows")
    count = f"{rows:,} rows" if rows else ""
    if names:
        return f"Trained on {names}{', ' + count if count else ''}."
    return f"Trained on {count or 'rows'} whose origin is not recorded."


def _loss_lines(run: RunFiles) -> Iterable[str]:
    """The parts of the loss that ran, with their weights; and what came out."""
    config, logged = run.config, run.record.get("losses") or {}
    parts = [name for name in logged if name != "loss" and f"{name}_weight" in config]
    if not parts:  # of a run that was not logged: what the model and the rows have something for
        has_pooler = config.get("use_pooler", True)
        needs = {
            "clip_loss": True,
            "short_clip_loss": (run.training.get("data") or {}).get("include_short_caption"),
            "beta_cal_loss": has_pooler,
            "text_conditioned_loss": has_pooler,
            "region_loss": config.get("use_regions"),
            "hard_negative_loss": config.get("use_regions"),
        }
        parts = [name for name, has in needs.items() if has and config.get(f"{name}_weight")]
    if parts:
        names = ", ".join(f"`{name}` (weight {config[f'{name}_weight']:g})" for name in parts)
        yield f"Losses: {names}."
    if "beta_cal_loss" in parts:
        yield f"β-CAL: {config.get('alignment_loss')}, β = {config.get('beta')}."
    if "loss" in logged:
        shown = ", ".join(f"`{name}` {logged[name]:.4g}" for name in ("loss", *parts) if name in logged)
        yield f"At the end of the training (step {logged.get('step')}): {shown}."
    mean = (run.trained.get("train") or {}).get("train_loss")
    if mean is not None:
        yield f"Mean of the loss over the training: {mean:.4g}."


def _hardware_line(environment: Mapping[str, Any] | None) -> str:
    if not environment:
        return "The hardware is not recorded."
    return (
        f"Hardware: {environment['processes']} × {environment['hardware']}, {environment['precision']}, torch "
        f"{environment['torch']}, transformers {environment['transformers']}."
    )


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


def _licence_lines(run: RunFiles, given: CardFields) -> Iterable[str]:
    of_data = given.data_license or (run.record.get("data") or {}).get("licence")
    if given.license == UNKNOWN_LICENCE:
        yield "The weights: not stated. They may be bound by the licence of the model that they were trained from."
    else:
        yield f"The weights: `{given.license}`."
    if of_data:
        yield f"The training data: `{of_data}`."
    else:
        yield "The training data: its licence is not known here, and the weights may be bound by it."
    yield "The code: Apache-2.0."


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
