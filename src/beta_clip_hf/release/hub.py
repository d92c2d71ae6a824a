"""`beta-clip push`: a model directory as a repository of the Hub, which loads where this package is not installed."""

import argparse
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from beta_clip_cli.reports import Report, add_json_argument, reporting

from ..files import write_json
from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.remote_code_beta_clip import carrying_code
from .model_card import UNKNOWN_LICENCE, RunFiles, render_card


logger = logging.getLogger(__name__)

# What goes along with the model where it is there. Pages with photos stay: their licences are not ours to give.
COMPANIONS = ("train_config.json", "train_results.json", "train_curves.png", "results.json")
AUTO_CLASSES = {BetaCLIPConfig: "AutoConfig", BetaCLIPModel: "AutoModel", BetaCLIPProcessor: "AutoProcessor"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `beta-clip push`."""
    parser.add_argument("folder", metavar="DIR", help="model directory, such as the output of beta-clip train")
    parser.add_argument("repo_id", metavar="REPO_ID", help="where it goes: NAME or ORGANISATION/NAME")
    parser.add_argument("--private", action="store_true", help="make a private repository, if it is a new one")
    parser.add_argument("--license", metavar="NAME", default=UNKNOWN_LICENCE, help="of the weights, for the card")
    parser.add_argument(
        "--data-license", metavar="NAME", help="of the training data, for the card (default: as recorded)"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch to push to (default: main)")
    parser.add_argument("--dry-run", metavar="DIR", help="write what would be uploaded into a folder, and stop")
    add_json_argument(parser)


@reporting
def run(args: argparse.Namespace) -> Report:
    """Uploads; the report is the address."""
    fields = {"license": args.license, "data_license": args.data_license}
    if args.dry_run:
        build_repository(args.folder, args.dry_run, args.repo_id, **fields)
        logger.info("%s holds what would be uploaded", args.dry_run)
        return Report({"repo_id": args.repo_id, "url": None, "folder": args.dry_run})
    url = push(args.folder, args.repo_id, private=args.private, revision=args.revision, **fields)
    return Report({"repo_id": args.repo_id, "url": url, "folder": None}, url)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    **fields: Any,
) -> str:
    """
    Uploads a model directory in one commit: see [`build_repository`] for what is in it.

    Args:
        folder: Of the model; it is only read.
        repo_id: Of the Hub; made where it does not exist.
        private: Whether a new repository is private; `None` takes the organisation's default.
        revision: Branch; `None` is main.
        token: Of the Hub; `None` takes the one of `hf auth login`.
        commit_message: `None` names the folder.
        fields: For the card, those of [`CardFields`]: `license`, `data_license`, `language`, `tags`, ….

    Returns:
        The address of the commit.

    Raises:
        ValueError: where the folder is no model directory, or the id cannot be one.
        TypeError: for a field that cards do not have.
        OSError: where the upload failed: what to do then is said. The folder is as it was, and the repository too.
    """
    validate_repo_id(repo_id)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as repository:
        with _saying_how_to_go_on(folder, repo_id):  # the code in the card needs the whole id
            full_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        build_repository(folder, repository, full_id, **fields)
        with _saying_how_to_go_on(folder, repo_id):
            api.create_repo(full_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=full_id,
                folder_path=repository,
                revision=revision,
                commit_message=commit_message or f"Model of {Path(folder).name}",
            )
    return str(commit.commit_url)


@contextmanager
def _saying_how_to_go_on(folder: str | Path, repo_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the client's own, or those of whichever HTTP library it is built on
        raise OSError(
            f"{repo_id} could not be uploaded: {_reason(error)}. {folder} is as it was; give the same command "
            "again (files that have arrived are not sent twice), after `hf auth login` if access was denied"
        ) from error


def build_repository(folder: str | Path, target: str | Path, repo_id: str, **fields: Any) -> None:
    """
    Writes what a repository holds: weights as safetensors, configuration, processor, the code by which
    `AutoModel.from_pretrained(…, trust_remote_code=True)` loads it without this package, the recipe and the results, as
    far as they are there, and the model card as README.md.

    Args:
        folder: Of the model; it is only read.
        target: A folder, made where it is missing. Paths of this machine are in none of its files.
        repo_id, fields: For the card, see [`CardFields`].

    Raises:
        ValueError: where the folder is no model directory.
    """
    folder, target = Path(folder), Path(target)
    card, run = render_card(folder, repo_id, **fields), RunFiles.read(folder)
    with carrying_code(AUTO_CLASSES):
        BetaCLIPModel.from_pretrained(folder).save_pretrained(target)
        BetaCLIPProcessor.from_pretrained(folder).save_pretrained(target)
    for name in COMPANIONS:
        source = next((file for file in (folder / name, folder / "evaluation" / name) if file.is_file()), None)
        if source is not None and source.suffix == ".json":
            content = run.public(json.loads(source.read_text(encoding="utf-8")))
            write_json(content, target / name)
        elif source is not None:
            shutil.copyfile(source, target / name)
    card.save(target / "README.md")


def _reason(error: Exception) -> str:
    response: Any = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason_phrase}".rstrip()
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
