"""Uploads a model directory to the Hub as a repository that also loads where this package is not installed."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..files import replacing, write_json
from ..inference.adapters import base_of_adapter
from ..model.adapters_beta_clip import is_adapter
from ..model.configuration_beta_clip import BetaCLIPConfig
from ..model.configuration_beta_siglip2 import BetaSiglip2Config
from ..model.modeling_beta_clip import BetaCLIPModel
from ..model.modeling_beta_siglip2 import BetaSiglip2Model
from ..model.processing_beta_clip import BetaCLIPProcessor
from ..model.processing_beta_siglip2 import BetaSiglip2Processor
from ..model.remote_code_beta_clip import PINNED, carrying_code
from .model_card import render_card
from .run_files import RunFiles


logger = logging.getLogger(__name__)

# Files that are uploaded with the model if they are there. Pages with photos stay: their licences are not ours to give.
CURVES = "train_curves.png"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "config.json")
# The configuration, the model and the processor of each kind of model, and the Auto classes that find them.
CLASSES: dict[str, tuple[Any, Any, Any]] = {
    BetaCLIPConfig.model_type: (BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor),
    BetaSiglip2Config.model_type: (BetaSiglip2Config, BetaSiglip2Model, BetaSiglip2Processor),
}
AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoProcessor")


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    names_commit: bool = True,
    **fields: Any,
) -> str:
    """
    Uploads a model directory in one commit. [`build_repository`] says what is uploaded.

    A second commit brings the hash of the first into the card, whose example then loads the code of that commit.

    Args:
        folder: Directory of the model. It is only read.
        repo_id: Id of the repository, which is created if it does not exist. A name alone is completed with that of
            the user.
        private: Whether a new repository is private. `None` takes the default of the organisation.
        revision: Branch to push to. `None` takes main.
        token: Token of the Hub. `None` takes the one of `hf auth login`.
        commit_message: Message of the commit. `None` names the folder.
        names_commit: Whether there is a second commit. Without it the card asks its reader to name a commit.
        fields: Fields of the card, see [`CardFields`]: `license`, `data_license`, `language`, `tags`, ….

    Returns:
        The address of the first commit.

    Raises:
        ValueError: if the folder is no model directory, or the id is not valid.
        TypeError: for a field that cards do not have.
        OSError: if the upload failed. The message says what to do. Folder and repository are unchanged.
    """
    validate_repo_id(repo_id)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as repository:
        with _explained_failure(folder, repo_id):
            # The code in the card needs the whole id.
            full_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        # Everything is written before the repository is created: a folder that cannot be read leaves no empty one.
        run = build_repository(folder, repository, full_id, **fields)
        with _explained_failure(folder, repo_id):
            api.create_repo(full_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=full_id,
                folder_path=repository,
                revision=revision,
                commit_message=commit_message or f"Model of {Path(folder).name}",
            )
            # The example of an adapter runs no code of the repository.
            if names_commit and not is_adapter(folder):
                card = render_card(Path(folder), full_id, revision=commit.oid, run=run, **fields)
                api.upload_file(
                    path_or_fileobj=str(card).encode(),
                    path_in_repo="README.md",
                    repo_id=full_id,
                    revision=revision,
                    commit_message=PINNED,
                )
    return str(commit.commit_url)


@contextmanager
def _explained_failure(folder: str | Path, repo_id: str) -> Iterator[None]:
    """Turns every error of the client into an OSError that says what to do."""
    try:
        yield
    except Exception as error:
        # The client raises errors of its own and those of the HTTP library that it is built on.
        raise OSError(
            f"{repo_id} could not be uploaded: {_reason(error)}. {folder} is unchanged; give the same command "
            "again (files that have arrived are not sent twice), after `hf auth login` if access was denied"
        ) from error


def _reason(error: Exception) -> str:
    response: Any = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason_phrase}".rstrip()
    message = " ".join(str(error).split()).rstrip(".")
    return message or type(error).__name__


def build_repository(folder: str | Path, target: str | Path, repo_id: str, **fields: Any) -> RunFiles:
    """
    Writes the content of a Hub repository into a folder.

    It holds the weights as safetensors, the configuration, the processor, the code with which
    `AutoModel.from_pretrained(…, trust_remote_code=True)` loads the model without this package, the recipe and the
    results if there are any, and the model card as README.md. An adapter stays one: its weights are those of the
    adapter, and there is no code. Recipe and results are those of these weights: files about others, and scores on
    training images, are left out with a warning.

    Args:
        folder: Directory of the model. It is only read.
        target: Folder to write, created if it is missing. None of its files holds a path of this machine.
        repo_id: Id of the repository, which the card names.
        fields: Fields of the card, see [`CardFields`].

    Returns:
        The records of the model.

    Raises:
        ValueError: if the folder is no model directory, or holds an adapter whose base model is not on the Hub.
        TypeError: for a field that cards do not have.
    """
    folder, target = Path(folder), Path(target)
    run = RunFiles.read(folder)
    card = render_card(folder, repo_id, run=run, **fields)
    # Every other kind of model becomes a β-CLIP when it is loaded.
    classes = CLASSES.get(run.config.get("model_type", ""), CLASSES[BetaCLIPConfig.model_type])
    if is_adapter(folder):
        _copy_adapter(folder, target, processor_class=classes[2])
    else:
        with carrying_code(dict(zip(classes, AUTO_CLASSES, strict=True))):
            for model_class in classes[1:]:
                model_class.from_pretrained(folder).save_pretrained(target)
    records = {"train_config.json": run.training, "train_results.json": run.trained, "results.json": run.results}
    for name, content in records.items():
        if content:
            write_json(run.public(content), target / name)
    if run.trained and (folder / CURVES).is_file():
        with replacing(target / CURVES) as unfinished:
            shutil.copyfile(folder / CURVES, unfinished)
    with replacing(target / "README.md") as unfinished:
        card.save(unfinished)
    return run


def _copy_adapter(folder: Path, target: Path, processor_class: Any) -> None:
    """Copies an adapter with its configuration and processor. Raises `ValueError` if others cannot load its base."""
    base = base_of_adapter(folder)
    if Path(base).exists() or not is_repository_id(base):
        raise ValueError(
            f"the base model of an adapter must be on the Hub, but {folder} was trained from {base}: write the whole "
            f"model with `beta-clip export merged {folder} DIR`, and push that"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        with replacing(target / name) as unfinished:
            shutil.copyfile(folder / name, unfinished)
    processor_class.from_pretrained(folder).save_pretrained(target)


def is_repository_id(name: str) -> bool:
    """Tells whether a name may be that of a repository of the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


__all__ = ["build_repository", "push"]
