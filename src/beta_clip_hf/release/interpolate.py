"""Weights between a model and what it was fine-tuned from: most of what was learnt, less of what was forgotten."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..model.checkpoints_beta_clip import is_fg_clip, weight_names
from ..model.configuration_beta_clip import CLIP_TEXT_POSITIONS, BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from .export import check_output, load_model, load_processor


logger = logging.getLogger(__name__)

# What a base may lack, as it is new in a fine-tuned model.
NEW_TENSORS = ("pooler.", "region_logit_scale", "hard_negative_logit_scale")
TOWER_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "vocab_size",
    "image_size",
    "patch_size",
    "num_channels",
)


def interpolate(base: str | Path, tuned: str | Path, output_dir: str | Path, *, alpha: float) -> BetaCLIPModel:
    r"""
    Saves the model with the weights `(1 - alpha) · base + alpha · tuned`, and the processor of `tuned` beside it.

    Args:
        base: directory or Hub id of the model that the training started from. A plain CLIP is made into the
            architecture of `tuned` as a training does: its positions are stretched, its long text path is a copy.
        tuned: directory or Hub id of a model of ours or of FG-CLIP.
        output_dir: where to save.
        alpha: in [0, 1]: 0 gives the towers of `base`, 1 gives `tuned`, both bit for bit.

    Returns:
        The model in evaluation mode, in the dtype of `tuned`; the sum is computed in at least float32. Tensors that
        `base` does not have (the pooler) are those of `tuned`, whatever `alpha`.

    Raises:
        ValueError: if `alpha` is outside of [0, 1], the two have different architectures (the first difference is
            named), or the output is one of the two.

    Source: WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903).
    """
    check_output(output_dir, base, tuned)
    check_alphas([alpha])
    pair = Pair(base, tuned)
    pair.save(output_dir, alpha)
    return pair.model


class Pair:
    """
    Two models of one architecture, read once for any number of alphas.

    Args:
        base, tuned: as in [`interpolate`].

    Raises:
        ValueError: if their architectures differ.
    """

    def __init__(self, base: str | Path, tuned: str | Path) -> None:
        self.model, self.processor = load_model(tuned), load_processor(tuned)
        base_model = _load_base(base, self.model.config)
        self.base_tensors = base_model.state_dict()
        self.tuned_tensors = self.model.state_dict()
        _check_same_architecture(base_model.config, self.model.config, self.base_tensors, self.tuned_tensors)
        kept = sorted({name.split(".")[0] for name in self.tuned_tensors.keys() - self.base_tensors.keys()})
        if kept:
            logger.info("Not in the base, so the tuned model's whatever alpha: %s", ", ".join(kept))

    def save(self, output_dir: str | Path, alpha: float) -> None:
        """Gives `model` the weights of one alpha and saves it, with the processor of the tuned model."""
        self.model.load_state_dict(mix(self.base_tensors, self.tuned_tensors, alpha), assign=True)
        self.model.save_pretrained(output_dir)
        if self.processor is not None:
            self.processor.save_pretrained(output_dir)


def mix(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """
    `(1 - alpha) · base + alpha · tuned`, tensor by tensor, in the dtypes of `tuned`; what `base` lacks is `tuned`'s.

    Computed in at least float32. At 0 and 1 nothing is computed, so that these are exact, signs of zeros included.
    """
    mixed = {}
    for name, target in tuned.items():
        if alpha == 1 or name not in base:
            mixed[name] = target.clone()
        elif alpha == 0:
            mixed[name] = base[name].to(target.dtype, copy=True)
        else:
            dtype = torch.promote_types(target.dtype, torch.float32)
            mixed[name] = ((1 - alpha) * base[name].to(dtype) + alpha * target.to(dtype)).to(target.dtype)
    return mixed


def check_alphas(alphas: Sequence[float]) -> None:
    """Raises `ValueError` for an alpha outside of [0, 1], or one that is given twice."""
    for alpha in alphas:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], but is {alpha}")
    if len(set(alphas)) < len(alphas):
        raise ValueError(f"alphas must differ, but are {list(alphas)}")


def _load_base(base: str | Path, tuned: Any) -> CLIPModel:
    """The base; one that is a plain CLIP with the text paths and the scales that `tuned` has."""
    is_stock = BetaCLIPConfig.get_config_dict(base)[0].get("model_type") == "clip"
    if not is_stock or is_fg_clip(weight_names(base)):
        return load_model(base)
    if not tuned.use_long_text_path and tuned.text_config.max_position_embeddings == CLIP_TEXT_POSITIONS:
        return CLIPModel.from_pretrained(base)  # a model that was trained without a stretch
    fields = ("use_long_text_path", "long_text_max_position_embeddings", "use_regions")
    return load_model(base, **{name: getattr(tuned, name) for name in fields})


def _check_same_architecture(
    base: Any, tuned: Any, base_tensors: Mapping[str, Tensor], tuned_tensors: Mapping[str, Tensor]
) -> None:
    for part in ("text_config", "vision_config"):
        for field in TOWER_FIELDS:
            of_base, of_tuned = (getattr(getattr(config, part), field, None) for config in (base, tuned))
            if of_base != of_tuned:
                raise ValueError(f"{part}.{field} of the base must be the tuned model's {of_tuned}, but is {of_base}")
    for name in sorted(base_tensors.keys() | tuned_tensors.keys()):
        if name not in base_tensors and name.startswith(NEW_TENSORS):
            continue
        for tensors, which, other in ((base_tensors, "base", "tuned"), (tuned_tensors, "tuned", "base")):
            if name not in tensors:
                raise ValueError(f"the {which} model must have {name} as the {other} one, but does not")
        shapes = tuple(base_tensors[name].shape), tuple(tuned_tensors[name].shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} of the base must be {shapes[1]} as the tuned model's, but is {shapes[0]}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip interpolate`."""
    from beta_clip_cli.evaluate import add_evaluation_arguments

    parser.add_argument("base", metavar="BASE", help="directory or Hub id of what the training started from")
    parser.add_argument("tuned", metavar="TUNED", help="directory or Hub id of the trained model")
    parser.add_argument(
        "output", metavar="DIR", help="directory to write; with several alphas, of a directory for each"
    )
    parser.add_argument(
        "--alpha", type=float, nargs="+", default=[0.5], metavar="X", help="share of TUNED, one or several"
    )
    parser.add_argument("--discard", action="store_true", help="keep the figures of a sweep only, not its models")
    add_json_argument(parser)
    group = parser.add_argument_group("sweep options", "with --tasks each model is evaluated, as by beta-clip evaluate")
    add_evaluation_arguments(group)


@reporting
def run(args: argparse.Namespace) -> Report:
    """One model in DIR; of several alphas, or with tasks, each in DIR/alpha_X, and the figures in DIR/sweep.json. The
    report says which models there are, or is sweep.json."""
    check_alphas(args.alpha)
    if args.discard and not args.tasks:
        raise ValueError("discard must come with tasks, as nothing else would be left, but there are none")
    if args.tasks:
        from beta_clip_cli.evaluate import task_names

        from ..evaluation.suite import check_tasks
        from .sweep import format_sweep, sweep

        check_tasks(task_names(args.tasks))  # an unknown one is said before a model is written
        summary = sweep(args)
        return Report({"output": args.output, **summary}, format_sweep(summary))
    folders = [Path(args.output)] if len(args.alpha) == 1 else folders_of_alphas(args.output, args.alpha)
    for folder in folders:
        check_output(folder, args.base, args.tuned)
    pair = Pair(args.base, args.tuned)
    for alpha, folder in zip(args.alpha, folders, strict=True):
        pair.save(folder, alpha)
        logger.info("alpha %g is in %s", alpha, folder)
    models = [{"alpha": alpha, "output": str(folder)} for alpha, folder in zip(args.alpha, folders, strict=True)]
    return Report({"output": args.output, "models": models})


def folders_of_alphas(output_dir: str | Path, alphas: Sequence[float]) -> list[Path]:
    return [Path(output_dir) / f"alpha_{alpha:g}" for alpha in alphas]
