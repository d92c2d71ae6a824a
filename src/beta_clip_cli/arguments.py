"""Arguments that several commands have."""

import argparse
from collections.abc import Sequence
from typing import Any


SHIPPED_MODEL = "the small β-CLIP of generated scenes that ships with the package"
"""What the help calls the model that a command takes if none is named."""
# Names that help needs. The library has the same ones, but importing it takes seconds.
FORMATS = (
    *("rows", "jsonl", "json", "csv", "hf", "imagefolder", "sidecar", "webdataset"),
    *("finehard", "coco", "dci"),
)


def add_device_argument(parser: Any) -> None:
    """
    Adds `--device`, whose value goes to [`beta_clip_hf.inference.processes.own_device`].

    Args:
        parser: A parser or a group of its arguments.
    """
    # No default of argparse: to know whether there is CUDA, torch would have to be imported for the help.
    parser.add_argument(
        "--device", metavar="DEVICE", help="where to run, for example cpu, cuda or cuda:1 (default: cuda if available)"
    )


def add_feeding_arguments(parser: Any) -> None:
    """
    Adds `--batch-size` and `--num-workers`, see [`feeding_settings`].

    Args:
        parser: A parser or a group of its arguments.
    """
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        help="number of images or long texts to encode at a time (default: 32; on a GPU 32 to 256, by its memory)",
    )
    parser.add_argument(
        "--num-workers",
        metavar="N",
        type=int,
        help="number of processes that read images (default: 0; on a GPU the number of cores minus one, at most 16)",
    )


def feeding_settings(args: argparse.Namespace) -> dict[str, int]:
    """Returns `batch_size` and `num_workers`: what was given, else what suits the device."""
    # Imports torch.
    from beta_clip_hf.inference.feeding import suited_feeding
    from beta_clip_hf.inference.processes import own_device

    suited = suited_feeding(own_device(args.device))
    return {
        "batch_size": suited.batch_size if args.batch_size is None else args.batch_size,
        "num_workers": suited.num_workers if args.num_workers is None else args.num_workers,
    }


def add_reading_arguments(
    parser: Any, *, split: str | None = "train", with_range: bool = True, with_select: bool = False
) -> None:
    """
    Adds the arguments that say how rows are read, see [`reading_settings`].

    Args:
        parser: A parser or a group of its arguments.
        split: The split that is read if none is named, for the help; `None` adds no `--split`.
        with_range: Whether to add `--skip` and `--take`.
        with_select: Whether to add `--select`.
    """
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the data (default: recognised by name and content)"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="THEIRS=OURS",
        help="columns to rename, for example text=caption; may have several pairs",
    )
    parser.add_argument(
        "--image-root",
        metavar="DIR",
        help="directory that relative image paths start from (default: the directory of the file, or a folder near it "
        "that has the images)",
    )
    if split is not None:
        parser.add_argument(
            "--split",
            metavar="NAME",
            help=f"which split to read, for directories and datasets that have several (default: {split})",
        )
    if with_range:
        parser.add_argument("--skip", metavar="N", type=int, help="leave out the first N records of the data")
        parser.add_argument("--take", metavar="N", type=int, help="use at most N records of the data, after --skip")
    if with_select:
        parser.add_argument(
            "--select",
            metavar="FILE",
            help="use only the records whose ids are in this file, one per line, for example held_out.txt of a run",
        )
    parser.add_argument(
        "--no-group",
        action="store_true",
        help="do not join the rows of the same image into one photo with several captions",
    )
    parser.add_argument(
        "--delimiter", metavar="TEXT", help="separator between the cells of a CSV file (default: read from its header)"
    )
    parser.add_argument(
        "--encoding", metavar="NAME", help="encoding of a CSV file, for example cp1252 (default: utf-8)"
    )


def reading_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `load_rows` that [`add_reading_arguments`] has added, without those not given.

    Raises:
        ValueError: for a column that is not `THEIRS=OURS`.
    """
    settings: dict[str, Any] = {}
    for name in ("format", "image_root", "split", "skip", "take", "select", "delimiter", "encoding"):
        value = getattr(args, name, None)
        if value is not None:
            settings[name] = value
    if args.columns:
        settings["columns"] = _parse_columns(args.columns)
    if args.no_group:
        settings["group"] = False
    return settings


def single_or_list(places: Sequence[str]) -> Any:
    """Returns several places of data as a list. A single place may also be a folder or a data set."""
    return places[0] if len(places) == 1 else list(places)


def _parse_columns(words: Sequence[str]) -> dict[str, str]:
    """Reads `THEIRS=OURS` as new names of columns."""
    columns = dict(word.rsplit("=", 1) for word in words if "=" in word)
    if len(columns) < len(words):
        raise ValueError(f"--columns must be THEIRS=OURS, each once, but is {list(words)}")
    return columns
