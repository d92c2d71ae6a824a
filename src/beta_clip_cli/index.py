"""`beta-clip index`: embeds a collection of photos for search, or brings an index up to date."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .arguments import (
    SHIPPED_MODEL,
    add_device_argument,
    add_feeding_arguments,
    add_reading_arguments,
    feeding_settings,
    reading_settings,
    single_or_list,
)
from .reports import Report, add_json_argument, reporting


# These repeat names of the library, which the help needs without importing torch.
DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = ("float32", "int8", "binary")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `beta-clip index`."""
    parser.add_argument(
        "photos", metavar="DATA", nargs="+", help="photos: folders, files of rows, a glob or a Hub dataset"
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="name of this collection in the index; a later run with the same name updates this collection and no "
        "other one (default: its path or id, with the split and the range)",
    )
    # The short second name saves typing.
    parser.add_argument(
        "--output",
        "--out",
        metavar="DIR",
        required=True,
        help="index to make or update: a directory, or a URI of an object store",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"directory or Hub id of the model (default: the model of the index; for a new one {SHIPPED_MODEL})",
    )
    parser.add_argument(
        "--store-patches",
        action="store_true",
        help="store patch features in the index, so that beta-clip search --rerank is faster",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="size of the numbers in the index: int8 and binary make it smaller (default: that of the index; for a "
        "new one float32)",
    )
    parser.add_argument(
        "--truncate-dim",
        metavar="N",
        type=int,
        help="keep only the first N numbers of each embedding (default: as in the index; for a new one all)",
    )
    add_reading_arguments(parser)
    add_feeding_arguments(parser)
    add_device_argument(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="precision of the model (default: that of the index; for a new one float32, or bfloat16 on a GPU)",
    )
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Makes or updates the index. The report counts what has changed; unreadable images are listed, and no error."""
    # Wrong arguments are reported before torch is imported, which takes seconds.
    reading = reading_settings(args)
    if args.name is not None:
        reading["name"] = args.name

    import torch

    from beta_clip_hf.search.build import IndexSettings, build_index

    feeding = feeding_settings(args)
    if feeding["num_workers"]:
        # LanceDB runs threads, which a forked process would lack.
        torch.multiprocessing.set_start_method("spawn", force=True)
    settings = IndexSettings(
        model=args.model,
        may_use_default_model=True,
        store_patches=args.store_patches,
        precision=args.precision,
        truncate_dim=args.truncate_dim,
        reading=reading,
        device=args.device,
        dtype=args.dtype,
        **feeding,
    )
    built = build_index(single_or_list(args.photos), args.output, settings)
    if built is None:
        # Of several processes only the first one reports.
        return Report(None)
    document: dict[str, Any] = {"index": built.path, "images": built.num_images, **asdict(built.added)}
    if built.recall is not None:
        document["recall"] = built.recall
        document["recall_of"] = built.recall_queries
    return Report(document, _format(document))


def _format(document: Mapping[str, Any]) -> str:
    """Returns the report for people: a line for each unreadable image, then the numbers."""
    lines = [f"unreadable: {location}: {reason}" for location, reason in document["unreadable"].items()]
    counts = [f"{document[name]} {name}" for name in ("new", "changed", "updated", "deleted", "unchanged")]
    if document["moved"]:
        counts.append(f"{document['moved']} moved")
    counts.append(f"{len(document['unreadable'])} unreadable")
    lines.append(f"{document['index']}: {document['images']} images ({', '.join(counts)})")
    if "recall" in document:
        comparison = f"against exact search, of {document['recall_of']}"
        lines.append(f"recall@20 {comparison}: {document['recall']:.3f}")
    return "\n".join(lines)
