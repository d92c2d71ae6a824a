"""Checkpoints that bring their own code, and load with `trust_remote_code=True` where this package is not installed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard


# Writes README.md, the card of the model in a folder: `write_card(folder, repo_id, tags)`. The package sets it when it
# is imported. The code that a checkpoint brings along has nothing that could write a card, and leaves it at `None`.
write_card: Callable[[Path, str, Any], None] | None = None


@contextmanager
def carrying_code(classes: Mapping[Any, str]) -> Iterator[None]:
    """
    Within it `save_pretrained` of these classes also writes the code that they need, and their names into the files.

    Args:
        classes: By class the Auto class that is to find it: `{BetaCLIPModel: "AutoModel"}`.
    """
    before = {cls: cls._auto_class for cls in classes}
    try:
        for cls, auto_class in classes.items():
            cls.register_for_auto_class(auto_class)
        yield
    finally:
        for cls, auto_class in before.items():
            cls._auto_class = auto_class


def render_first_card(folder: Any, repo_id: str, token: Any = None) -> None:
    """
    Puts the card of the model in a folder in the place of the blank one that transformers is about to upload from it,
    where the repository has none yet. A folder without a model, as of a processor alone, is left without a card: there
    is nothing to say, and the first model gets its own.
    """
    folder, readme = Path(folder), Path(folder) / "README.md"
    if HfApi(token=token).file_exists(repo_id, readme.name):
        return
    if not (folder / "config.json").exists():
        readme.unlink()
        return
    if write_card is not None:
        write_card(folder, repo_id, ModelCard.load(readme).data.tags)


__all__ = ["carrying_code", "render_first_card"]
