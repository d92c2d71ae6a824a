"""Describes the training of a model in sentences for its card, from the records beside it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..model.objective_beta_clip import LOSS_PARTS, LossPart
from ..visualize.log_keys import recall_keys
from .measured_results import MAX_TRAINED_SHARE
from .run_files import RunFiles


def training_lines(run: RunFiles, *, base: str | None = None, data_names: Sequence[str] = ()) -> Iterator[str]:
    """
    Yields a sentence for each thing that is known of a training.

    Args:
        run: The records.
        base: Id of the model that the training started from. `None` takes the recorded one.
        data_names: Ids of the training data. Empty takes the recorded ones.
    """
    if not run.training and not run.trained:
        yield "The training is not recorded."
        return
    yield _start_line(run, base)
    yield _data_line(run, data_names)
    yield from _loss_lines(run)
    yield from _steps_lines(run)
    yield from _checkpoint_lines(run)
    yield _hardware_line(run.record.get("environment"))
    yield from _time_lines(_training_metrics(run))
    yield from _retrieval_lines(run)
    skipped = sum((run.trained.get("skipped_rows") or {}).values())
    if skipped:
        yield f"{skipped} rows could not be used and were skipped."


def _training_metrics(run: RunFiles) -> Mapping[str, Any]:
    return run.trained.get("train") or {}


def _start_line(run: RunFiles, base: str | None) -> str:
    base = base or run.public(run.base)
    if base:
        return f"Started from `{base}`."
    if run.recipe_of_model.get("from_scratch"):
        return "Started from random weights."
    return "What it started from is not recorded."


def _data_line(run: RunFiles, data_names: Sequence[str]) -> str:
    parts = []
    source = run.recipe_of_data.get("train")
    if isinstance(source, Mapping) and "scenes" in source:
        # Generated scenes have no name. "medium" is the level that they have by default.
        parts.append(f'generated scenes of level "{source.get("level", "medium")}"')
    else:
        parts += [f"`{name}`" for name in data_names or run.public(run.train_data)]
    rows = (run.record.get("data") or {}).get("rows")
    count = f"{rows:,} rows" if rows else ""
    if not parts:
        return f"Trained on {count or 'rows'} whose origin is not recorded."
    if count:
        parts.append(count)
    return f"Trained on {', '.join(parts)}."


def _loss_lines(run: RunFiles) -> Iterator[str]:
    logged = run.record.get("losses") or {}
    parts = _loss_parts(run, logged)
    if parts:
        weighted = [f"`{name}` (weight {run.config[LOSS_PARTS[name].weight]:g})" for name in parts]
        yield f"Losses: {', '.join(weighted)}."
    if "beta_cal_loss" in parts:
        yield f"β-CAL: {run.config.get('alignment_loss')}, β = {run.config.get('beta')}."
    if "loss" in logged:
        values = [f"`{name}` {logged[name]:.4g}" for name in ("loss", *parts) if name in logged]
        yield f"At the end of the training (step {logged.get('step')}): {', '.join(values)}."
    mean = _training_metrics(run).get("train_loss")
    if mean is not None:
        yield f"Mean of the loss over the training: {mean:.4g}."


def _loss_parts(run: RunFiles, logged: Mapping[str, Any]) -> list[str]:
    """Returns the names of the parts of the loss that ran. Without a log it is those that can have run."""
    # The log also has the total, `loss`, and the `step` of the record.
    parts = [name for name in logged if name in LOSS_PARTS and LOSS_PARTS[name].weight in run.config]
    if parts:
        return parts
    return [name for name, part in LOSS_PARTS.items() if _can_run(part, run)]


def _can_run(part: LossPart, run: RunFiles) -> bool:
    """Whether a part of the loss has a weight, and the model and the rows of the run have what it needs."""
    if part.rows == "short_captions" and not run.recipe_of_data.get("include_short_caption"):
        return False
    return bool(run.config.get(part.weight)) and part.is_possible(run.config)


def _steps_lines(run: RunFiles) -> Iterator[str]:
    if "steps" not in run.record:
        return
    line = f"{run.record['steps']:,} steps"
    images = run.record.get("images_per_step")
    if images:
        line = f"{line} of {images:,} images"
        if images != int(images):
            # The last step of an epoch may have fewer images.
            line = f"{line} on average"
    metrics = _training_metrics(run)
    if "epoch" in metrics:
        line = f"{line}, {metrics['epoch']:,.3g} epochs"
    yield f"{line}."
    yield from _leg_lines(run.record.get("legs") or [])


def _leg_lines(legs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Says where a run was stopped and resumed, and what was changed there."""
    for leg in legs[1:]:
        line = f"Resumed after step {leg.get('first_step')}"
        changes = [str(change.get("key")) for change in leg.get("changes") or ()]
        if changes:
            line = f"{line} with another {', '.join(changes)}"
        yield f"{line}."


def _checkpoint_lines(run: RunFiles) -> Iterator[str]:
    """Says of which step the weights are if an evaluation has chosen them. They are not those of the last step then."""
    checkpoint = run.trained.get("best_checkpoint")
    if not checkpoint:
        return
    step = str(checkpoint).rpartition("-")[2]
    metric = (run.training.get("training") or {}).get("metric_for_best_model")
    by = f" by `{metric}`" if metric else ""
    yield (
        f"The weights are those of step {step}, the best{by} on the evaluation rows. As they were chosen there, their "
        "scores on these rows look better than on other images."
    )


def _hardware_line(environment: Mapping[str, Any] | None) -> str:
    if not environment:
        return "The hardware is not recorded."
    return (
        f"Hardware: {environment['processes']} × {environment['hardware']}, {environment['precision']}, torch "
        f"{environment['torch']}, transformers {environment['transformers']}."
    )


def _time_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    if "train_runtime" not in metrics:
        return
    line = f"{metrics['train_runtime']:,.0f} seconds"
    rate = metrics.get("train_samples_per_second")
    if rate:
        line = f"{line}, {rate:g} images per second"
    yield f"{line}."


def _retrieval_lines(run: RunFiles) -> Iterator[str]:
    keys = []
    for key in recall_keys(run.record.get("evaluated_sets") or ()):
        if key.k == 1 and (run.evaluation_shares.get(key.data) or 0) <= MAX_TRAINED_SHARE:
            keys.append(key)
    for moment in ("before", "after"):
        # A resumed run has no evaluation before, and a run without evaluation rows has none at all.
        metrics = run.trained.get(moment) or {}
        recalls = []
        for key in keys:
            if key.key not in metrics:
                continue
            images = metrics.get(key.images_key)
            chance = f" (chance {100 * min(1.0, key.k / images):.1f})" if images else ""
            recalls.append(f"{key.name} {100 * metrics[key.key]:.1f}{chance}")
        if recalls:
            yield f"Retrieval on the evaluation rows {moment} training, per cent: {', '.join(recalls)}."
    names = [f"`{name}`" for name in run.public(run.evaluation_data)]
    if names and (run.trained.get("before") or run.trained.get("after")):
        yield f"The evaluation rows: {', '.join(names)}."
    yield from _shared_image_lines(run.evaluation_shares)


def _shared_image_lines(shares: Mapping[str, float | None]) -> Iterator[str]:
    """Says which share of the evaluation images was also trained on. Above a limit their scores are left out."""
    for name, share in shares.items():
        if not share:
            continue
        rows = f" `{name}`" if name else ""
        line = f"{100 * share:.3g} % of the images of the evaluation rows{rows} were also trained on"
        if share > MAX_TRAINED_SHARE:
            line = f"{line}, so their scores are no results and are left out"
        yield f"{line}."


__all__ = ["training_lines"]
