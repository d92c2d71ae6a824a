"""Builds what a configuration describes: the rows, the model with its processor, and the Trainer."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, set_seed

from ...data.collator import BetaCLIPDataCollator
from ...data.holding_out import hold_out
from ...data.readers import load_rows
from ...data.regions import regions_of
from ...data.scenes import SceneDataset
from ...data.tokenizers import clip_tokenizer_from_bpe, train_clip_tokenizer
from ...evaluation.benchmarks.long_captions import SHARE_LISTS, SHARE_TEST_RECORDS
from ...files import naming_errors
from ...inference.stored_sizes import stored_config
from ...model.configuration_beta_clip import BetaCLIPConfig
from ...model.image_views_beta_clip import pixel_scale
from ...model.modeling_beta_clip import BetaCLIPModel
from ...model.processing_beta_clip import BetaCLIPProcessor
from ..arguments import BetaCLIPTrainingArguments
from ..record.run_record import describe_origin, write_config
from ..saving.output_dir import check_no_checkpoints
from ..trainer import BetaCLIPTrainer
from .build_siglip2 import build_siglip2, is_siglip2
from .config import COLLATOR_KEYS, TRAINING_TYPES
from .from_scratch import check_vocabulary, values_from_scratch
from .loading import LOADING_KEYS, loading_arguments
from .missing_parts import check_parts
from .value_types import check_types


logger = logging.getLogger(__name__)

# Rows of the window in which a stream is shuffled, unless its source says another number.
SHUFFLE_BUFFER = 1000
# Rows that are looked at for regions.
_ROWS_LOOKED_AT = 100
# Training arguments that must be whole numbers of at least 1.
_COUNTS = ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size")


def build_trainer(config: Mapping[str, Any], *, resume: bool = False) -> BetaCLIPTrainer:
    """
    Builds the Trainer of a configuration, with its model, processor and rows, and writes `train_config.json`.

    Args:
        config: The sections that [`read_config`] returns.
        resume: Whether the run continues from a checkpoint, so that the output directory may hold some.

    Raises:
        ValueError: if a value is not possible, or if the output directory holds checkpoints of an earlier run that is
            not resumed.
    """
    args = build_arguments(config["training"])
    if not resume:
        check_no_checkpoints(args.output_dir)
    trainer = prepare_trainer(config, args)
    write_config(trainer)
    return trainer


def prepare_trainer(
    config: Mapping[str, Any], args: BetaCLIPTrainingArguments, train_rows: Any = None
) -> BetaCLIPTrainer:
    """
    Builds the Trainer of a configuration, see [`build_trainer`], and writes nothing.

    Args:
        config: The sections that [`read_config`] returns.
        args: The arguments that [`build_arguments`] makes of its section `training`.
        train_rows: The rows of `data.train`, if they are open already.
    """
    # Before anything random: a tokenizer, new weights, the shuffling of rows.
    set_seed(args.seed)
    data = config["data"]
    strict = bool(data.get("strict", False))
    if train_rows is None:
        train_rows = open_train_rows(config)
    eval_rows = None
    if data.get("eval_fraction"):
        # The split does not depend on the run's seed: a run with another seed must not train on held-out rows.
        train_rows, eval_rows = hold_out(train_rows, data["eval_fraction"])
    elif data.get("eval"):
        eval_rows = open_rows(data["eval"], seed=args.seed, strict=strict)
    model, processor = build_model(config["model"], train_rows)
    check_parts(config, model.config)
    sampling = {name: data[name] for name in COLLATOR_KEYS if name in data}
    if args.device.type == "cuda" and pixel_scale(processor.image_processor) is not None:
        # Workers that feed a GPU do less work if they pass bytes on.
        sampling.setdefault("uint8_pixels", True)
    trainer = BetaCLIPTrainer(
        model,
        args,
        BetaCLIPDataCollator(processor, seed=args.seed, strict=strict, **sampling),
        processing_class=processor,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
    )
    trainer.origin = describe_origin(config)
    _warn_of_missing_regions(trainer)
    return trainer


def _warn_of_missing_regions(trainer: BetaCLIPTrainer) -> None:
    """Warns if regions are to be trained, but the first rows have none."""
    rows, collator = trainer.train_dataset, trainer.data_collator
    if not getattr(collator, "num_regions", 0) or not hasattr(rows, "__len__"):
        return
    looked_at = min(len(rows), _ROWS_LOOKED_AT)
    if not any(regions_of(rows[number]) for number in range(looked_at)):
        logger.warning(
            "none of the first %d rows has regions, or phrases with one box: region_loss and hard_negative_loss are "
            "not trained, and what the model says of boxes (show --box) means nothing; give rows with boxes, or set "
            "data.num_regions=0 and model.config.use_regions=false",
            looked_at,
        )


def build_arguments(training: Mapping[str, Any]) -> BetaCLIPTrainingArguments:
    """
    Builds the training arguments from the section `training`.

    Raises:
        ValueError: if a value is not possible.
    """
    for name in _COUNTS:
        if name in training and (type(training[name]) is not int or training[name] < 1):
            raise ValueError(f"training.{name} must be a whole number of at least 1, but is {training[name]!r}")
    # TrainingArguments compares values with numbers without looking at their type: a string would be a TypeError.
    check_types(training, TRAINING_TYPES, "training")
    try:
        return BetaCLIPTrainingArguments(**training)
    except (TypeError, KeyError) as error:
        # transformers looks names up in tables, and passes mappings on to functions.
        raise ValueError(f"training must have values that transformers takes, but has not: {error}") from error


def open_train_rows(config: Mapping[str, Any]) -> Any:
    """Opens the rows of `data.train`, including those that will be held out."""
    training = config["training"]
    seed = training.get("data_seed")
    if seed is None:
        seed = training.get("seed", BetaCLIPTrainingArguments.seed)
    strict = bool(config["data"].get("strict", False))
    return open_rows(config["data"]["train"], seed=seed, strict=strict, shuffle=True)


def open_rows(source: Any, *, seed: int, strict: bool, shuffle: bool = False) -> Any:
    """
    Opens the rows that `data.train` or `data.eval` names.

    Args:
        source: A source that [`load_rows`] takes; or a mapping of its arguments (`source`, `columns`, …); or
            `{"scenes": 2000, "level": "medium", …}` for generated scenes (see [`SceneDataset`]).
        seed: The seed with which a stream is shuffled.
        strict: Whether a row that cannot be used is an error.
        shuffle: Whether a stream is shuffled in a window, of 1,000 rows unless `shuffle_buffer` says another size.
    """
    settings = {"source": source}
    if isinstance(source, Mapping):
        settings = dict(source)
    if "scenes" in settings:
        return SceneDataset(settings.pop("scenes"), **settings)
    if shuffle:
        _warn_of_test_records(settings)
        settings = {"shuffle_buffer": SHUFFLE_BUFFER, "seed": seed, **settings}
    return load_rows(settings.pop("source", None), **settings, strict=strict)


def _warn_of_test_records(settings: Mapping[str, Any]) -> None:
    """Warns if the training rows include the records of ShareGPT4V that are a benchmark."""
    source = settings.get("source")
    if not isinstance(source, str | Path) or Path(source).name not in SHARE_LISTS:
        return
    if settings.get("skip", 0) < SHARE_TEST_RECORDS and settings.get("select") is None:
        logger.warning(
            "the first %d records of %s are the benchmark sharegpt4v_1k: hold them out of the training with --skip %d",
            SHARE_TEST_RECORDS,
            Path(source).name,
            SHARE_TEST_RECORDS,
        )


def build_model(settings: Mapping[str, Any], train_rows: Any) -> tuple[Any, Any]:
    """
    Builds the model, of the kind that the section names, and its processor.

    Args:
        settings: The section `model` of a configuration.
        train_rows: Rows with captions. They are read if a tokenizer is trained.

    Raises:
        ValueError: if a model from scratch has no tokenizer, if the tokenizer has more ids than the model, or if the
            weights cannot be loaded as the section says.
    """
    tokenizer = build_tokenizer(settings.get("tokenizer"), train_rows)
    if is_siglip2(settings):
        return build_siglip2(settings, tokenizer)
    if settings.get("dynamic_max_patches"):
        raise ValueError("model.dynamic_max_patches must be false for a CLIP, whose images have one size, but is true")
    changes = dict(settings.get("config") or {})
    if settings.get("from_pretrained"):
        source = settings["from_pretrained"]
        with naming_errors(source, "the directory of a model, or its Hub id"):
            stored_config(source)
            model, processor = _pretrained_model(source, tokenizer, {**changes, **loading_arguments(settings)})
    else:
        loading = sorted(name for name in LOADING_KEYS if settings.get(name) is not None)
        if loading:
            raise ValueError(f"model.{loading[0]} must be left out for a model from scratch, but is given")
        model, processor = _new_model(settings["from_scratch"], tokenizer, changes)
    _fit_to_model(processor, model.config)
    if settings.get("squash_images"):
        processor = processor.squash_images()
    return model, processor


def _pretrained_model(
    source: str, tokenizer: Any, changes: Mapping[str, Any]
) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    model = BetaCLIPModel.from_pretrained(source, **changes)
    if tokenizer is None:
        lengths = {}
        if model.config.use_long_text_path and BetaCLIPConfig.get_config_dict(source)[0].get("model_type") == "clip":
            # The long path is new: the files of the base say how many positions the short one has.
            lengths["max_length"] = model.config.long_text_max_position_embeddings
        return model, BetaCLIPProcessor.from_pretrained(source, **lengths)
    image_size = model.config.vision_config.image_size
    return model, BetaCLIPProcessor.from_image_size(tokenizer, image_size=image_size)


def _new_model(
    sizes: Mapping[str, Any], tokenizer: Any, changes: Mapping[str, Any]
) -> tuple[BetaCLIPModel, BetaCLIPProcessor]:
    model = BetaCLIPModel(BetaCLIPConfig(**values_from_scratch(sizes, tokenizer, changes)))
    image_size = model.config.vision_config.image_size
    return model, BetaCLIPProcessor.from_image_size(tokenizer, image_size=image_size)


def _fit_to_model(processor: BetaCLIPProcessor, config: Any) -> None:
    """Checks the vocabulary of a processor and limits its texts to the positions of the model."""
    check_vocabulary(processor.tokenizer, config)
    positions = config.text_config.max_position_embeddings
    if config.use_long_text_path:
        # The table of the text tower belongs to the short path then.
        processor.short_max_length = min(processor.short_max_length or positions, positions)
        positions = config.long_text_max_position_embeddings
    processor.max_length = min(processor.max_length, positions)


def build_tokenizer(settings: Any, train_rows: Any) -> Any:
    """
    Builds the tokenizer that `model.tokenizer` names.

    Args:
        settings: OpenAI's file of merges (`bpe_simple_vocab_16e6.txt.gz`), a directory or Hub id,
            `{"vocab_size": 2048}` for one that is trained on the captions of the training rows, or `None` for the
            tokenizer of the checkpoint.
        train_rows: Rows with captions. They are read if a tokenizer is trained.

    Returns:
        The tokenizer, or `None` for the one of the checkpoint.

    Raises:
        ValueError: for another mapping, or if a tokenizer is to be trained on a stream.
    """
    if settings is None:
        return None
    if isinstance(settings, Mapping):
        if set(settings) != {"vocab_size"}:
            raise ValueError(f"model.tokenizer must be a path, an id or a vocab_size, but is {dict(settings)}")
        return train_clip_tokenizer(_captions(train_rows), vocab_size=settings["vocab_size"])
    if Path(settings).is_file():
        return clip_tokenizer_from_bpe(settings)
    try:
        return AutoTokenizer.from_pretrained(settings, trust_remote_code=False)
    except OSError as error:
        raise ValueError(
            f"model.tokenizer must be OpenAI's file of merges, a directory, or an id of the Hub, but is {settings!r}"
        ) from error


def _captions(rows: Any) -> Iterator[str]:
    if not hasattr(rows, "__len__"):
        raise ValueError(
            "model.tokenizer must be a file or directory if the rows are a stream, because a stream is not read twice"
        )
    for index in range(len(rows)):
        yield rows[index]["caption"]


__all__ = [
    "build_arguments",
    "build_model",
    "build_tokenizer",
    "build_trainer",
    "open_rows",
    "open_train_rows",
    "prepare_trainer",
]
