# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that bring their own code, and load with `trust_remote_code=True` where this package is not installed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from transformers.dynamic_module_utils import custom_object_save


# Writes README.md, the card of the model in a folder: `write_card(folder, repo_id, tags, commit)`, where the commit is
# that of the code, or `None`. The package sets it when it is imported. The code that a checkpoint brings along has
# nothing that could write a card, and leaves it at `None`.
write_card: Callable[[Path, str, Any, str | None], None] | None = None


# The message of the commit that brings the hash of the commit before into the card.
PINNED = "The card names the commit of the code"

# The Auto classes that find a model. A pipeline asks the one of its task, and tries no other.
MODEL_AUTO_CLASSES = ("AutoModel", "AutoModelForZeroShotImageClassification")


@contextmanager
def carrying_code(classes: Mapping[Any, str]) -> Iterator[None]:
    """
    Makes `save_pretrained` of some classes also write the code that they need, while the context lasts.

    Args:
        classes: For each class the Auto class that finds it, for example `{BetaCLIPModel: "AutoModel"}`.
    """
    # transformers remembers the registration on the class, for all later saves. Here it ends with the context.
    auto_classes_before = {cls: cls._auto_class for cls in classes}
    try:
        for cls, auto_class in classes.items():
            cls.register_for_auto_class(auto_class)
        yield
    finally:
        for cls, auto_class in auto_classes_before.items():
            cls._auto_class = auto_class


@contextmanager
def saved_with_code(auto_classes: Mapping[Any, str], parts: Sequence[Any]) -> Iterator[None]:
    """
    Makes `save_pretrained` write the code, so that the directory loads where this package is not imported.

    Without it `AutoModel` would know no such model, and `AutoProcessor` would return a bare tokenizer. A class that is
    defined elsewhere, as a user's own, is saved as transformers does.

    Args:
        auto_classes: As those of [`carrying_code`]. A class that is registered stays as it is.
        parts: Objects in which transformers notes the code while it saves. Afterwards they are as before.
    """
    carried = {}
    for cls, auto_class in auto_classes.items():
        if _is_of_this_package(cls) and cls._auto_class is None:
            carried[cls] = auto_class
    maps_before = [vars(part).get("auto_map") for part in parts]
    try:
        with carrying_code(carried):
            yield
    finally:
        for part, auto_map in zip(parts, maps_before, strict=True):
            vars(part).pop("auto_map", None)
            if auto_map is not None:
                part.auto_map = auto_map


def save_model_with_code(save: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls `save_pretrained` of a model within [`saved_with_code`], and names all Auto classes that find it."""
    config = model.config
    with saved_with_code({type(config): "AutoConfig", type(model): "AutoModel"}, [config]):
        if model._auto_class is not None:
            # transformers adds the class that was registered to this map, and knows no way to register several.
            config.auto_map = auto_map_of_model(model, getattr(config, "auto_map", None))
        return save(*args, **kwargs)


def save_processor_with_code(save: Callable[..., Any], processor: Any, folder: Any, *args: Any, **kwargs: Any) -> Any:
    """
    Calls `save_pretrained` of a processor, and writes its code beside it.

    A registered class would also leave its name in the files of tokenizer and image processor, which may be used alone.
    """
    cls = type(processor)
    module = cls.__module__.rpartition(".")[2]
    if cls._auto_class is not None or not _is_of_this_package(cls):
        return save(folder, *args, **kwargs)
    processor.auto_map = {"AutoProcessor": f"{module}.{cls.__name__}"}
    try:
        written = save(folder, *args, **kwargs)
    finally:
        vars(processor).pop("auto_map", None)
    custom_object_save(processor, folder)
    return written


def _is_of_this_package(cls: Any) -> bool:
    return cls.__module__.rpartition(".")[0] == __name__.rpartition(".")[0]


def auto_map_of_model(model: Any, auto_map: Mapping[str, str] | None) -> dict[str, str]:
    """
    Returns the `auto_map` of a model's config with all Auto classes of [`MODEL_AUTO_CLASSES`] in it.

    Args:
        model: The model that is about to be saved with its code.
        auto_map: The `auto_map` that its config has so far.
    """
    module = type(model).__module__.rpartition(".")[2]
    reference = f"{module}.{type(model).__name__}"
    return {**(auto_map or {}), **dict.fromkeys(MODEL_AUTO_CLASSES, reference)}


def render_first_card(folder: Any, repo_id: str, token: Any = None) -> bool:
    """
    Replaces the blank card that transformers is about to upload by the card of the model in the folder.

    A repository that has a card keeps it. A folder without a model, such as that of a processor alone, gets no card:
    there is nothing to say yet.

    Args:
        folder: What is about to be uploaded, with transformers' blank README.md.
        repo_id: The repository on the Hub.
        token: For the Hub.

    Returns:
        Whether the card is the one of this package, see [`pin_first_card`].
    """
    folder = Path(folder)
    readme = folder / "README.md"
    if HfApi(token=token).file_exists(repo_id, readme.name):
        return False
    if not (folder / "config.json").exists():
        readme.unlink()
        return False
    if write_card is None:
        return False
    write_card(folder, repo_id, ModelCard.load(readme).data.tags, None)
    return True


def pin_first_card(folder: Any, repo_id: str, commit: str, *, token: Any = None, branch: str | None = None) -> None:
    """
    Uploads the card of [`render_first_card`] once more: its example then names the commit with the code.

    Args:
        folder: What was uploaded.
        repo_id: The repository on the Hub.
        commit: The hash of the commit.
        token: For the Hub.
        branch: The branch of the commit; by default main.
    """
    assert write_card is not None
    readme = Path(folder) / "README.md"
    write_card(Path(folder), repo_id, ModelCard.load(readme).data.tags, commit)
    HfApi(token=token).upload_file(
        path_or_fileobj=readme, path_in_repo=readme.name, repo_id=repo_id, revision=branch, commit_message=PINNED
    )


__all__ = [
    "MODEL_AUTO_CLASSES",
    "PINNED",
    "auto_map_of_model",
    "carrying_code",
    "pin_first_card",
    "render_first_card",
    "save_model_with_code",
    "save_processor_with_code",
    "saved_with_code",
]
