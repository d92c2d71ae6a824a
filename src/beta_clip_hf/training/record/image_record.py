"""`train_images.json`: which images a run trains on, so that scores on them are not taken for those on new images."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import write_json
from ...inference.image_sample import ImageSample


logger = logging.getLogger(__name__)

# It stays on this machine: whoever has a photo could find out from its hash whether it is in the data.
IMAGES_FILE = "train_images.json"


def record_images(trainer: Any) -> None:
    """
    Writes `train_images.json` of a Trainer, and warns if it is evaluated on images that it trains on.

    The file holds a sample of the training images, see [`ImageSample`], and for each evaluation set the share of its
    images that are among them. Where the rows are a stream, they are `null`. Only the first process does it.
    """
    if not trainer.is_world_process_zero():
        return
    trained = ImageSample.read(trainer.train_dataset)
    shares = {name: _trained_share(rows, trained) for name, rows in _evaluation_sets(trainer).items()}
    for name, share in shares.items():
        if share:
            logger.warning(
                "%.3g %% of the images of the evaluation rows%s are also trained on, so their scores say little about "
                "other images: hold images out, for example with data.train: {skip: …} and data.eval: {take: …}",
                100 * share,
                f" {name!r}" if name else "",
            )
    record = {"train": None if trained is None else trained.to_json(), "evaluation": shares}
    write_json(record, Path(trainer.args.output_dir) / IMAGES_FILE)


def _evaluation_sets(trainer: Any) -> Mapping[str, Any]:
    """Returns the evaluation sets of a Trainer by name. A single set has the name ""."""
    rows = trainer.eval_dataset
    if rows is None:
        return {}
    if isinstance(rows, Mapping):
        return rows
    return {"": rows}


def _trained_share(rows: Any, trained: ImageSample | None) -> float | None:
    """Returns the share of the images of some rows that are also trained on; `None` if it is not known."""
    evaluated = ImageSample.read(rows)
    if trained is None or evaluated is None:
        return None
    return evaluated.share_in(trained)


__all__ = ["IMAGES_FILE", "record_images"]
