"""The images that the demo searches: an index, photos that are indexed first, or generated scenes."""

import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypedDict

from PIL import Image

from ..data.scenes import SceneDataset, default_model
from ..inference.embedder import Embedder
from ..search.gallery import image_of
from ..search.index import PhotoIndex, load_embedder
from ..search.schema import exists
from ..search.table import ImageTable


logger = logging.getLogger(__name__)

NUM_SCENES = 200
# The processor scales the pictures down. People see them in this size.
SCENE_SIDE = 256
# No model of this package is trained on the scenes of seed 1.
SCENE_SEED = 1
# Number of captions that visitors are offered to search for.
_SUGGESTED_CAPTIONS = 3
# Changes that are easy to see in a small picture, the easiest first.
_EASY_CHANGES = ("replace", "colour", "shape")


class CollectionOptions(TypedDict, total=False):
    """Holds the keyword arguments of [`open_collection`]."""

    model: str | None
    index: str | None
    photos: str | None
    level: str
    num_scenes: int
    device: str | None


class Example(NamedTuple):
    """An image to try with a true caption and another one. A caption that is not known is empty."""

    image: Image.Image
    caption: str = ""
    other: str = ""


@dataclass
class Collection:
    """An index and examples from it."""

    index: PhotoIndex
    title: str
    """What the images are, for example "200 generated scenes"."""
    scenes: SceneDataset | None = None
    """The scenes that were indexed, if the images are generated."""
    _example_keys: list[str] = field(default_factory=list)

    def example(self, number: int) -> Example:
        """
        Returns an image with its captions.

        The other caption of a generated scene is one of its hard negatives, that of a photo the caption of the next
        photo. An image that cannot be opened any more is passed over, and not counted from then on.

        Args:
            number: Position of the image in the collection. After the last image comes the first one again.

        Raises:
            ValueError: if the collection is empty, or none of its images can be opened.
        """
        if self.scenes is not None:
            return scene_example(self.scenes[number % len(self.scenes)])
        if not self._example_keys:
            self._example_keys = self._openable_keys()
        while self._example_keys:
            place = number % len(self._example_keys)
            key = self._example_keys[place]
            image = image_of(key, self.index.table)
            if image is not None:
                following = self._example_keys[(place + 1) % len(self._example_keys)]
                caption, other = self._caption_of(key), self._caption_of(following)
                has_two_captions = caption and other != caption
                return Example(image, caption, other if has_two_captions else "")
            del self._example_keys[place]
        if len(self.index) > 0:
            raise ValueError("No image of the collection can be opened.")
        raise ValueError("The collection is empty.")

    def captions(self) -> list[str]:
        """Returns some captions of the collection, which visitors may search for. Photos may have none."""
        if self.scenes is not None:
            num_captions = min(_SUGGESTED_CAPTIONS, len(self.scenes))
            return [self.scenes[place]["short_caption"] for place in range(num_captions)]
        if not self._has_captions:
            return []
        captions = self.index.table.some("caption", _SUGGESTED_CAPTIONS)
        return list(dict.fromkeys(captions))

    @property
    def _has_captions(self) -> bool:
        return "caption" in self.index.table.columns

    def _openable_keys(self) -> list[str]:
        """Returns the keys of the images whose file still exists, and of those that need no file."""
        known = self.index.table.known()
        return sorted(key for key, stored in known.items() if stored.file_modified_ns is None or os.path.isfile(key))

    def _caption_of(self, key: str) -> str:
        """Returns the caption of an image, or "" if it has none."""
        if not self._has_captions:
            return ""
        # Another process may have removed the image from the index.
        return self.index.table.fetch([key], ["caption"]).get(key, {}).get("caption") or ""


def scene_example(row: dict[str, Any]) -> Example:
    """Returns a scene with its caption and the hard negative whose change is the easiest to see."""

    def difficulty(negative: tuple[str, str]) -> int:
        kind, _ = negative
        if kind in _EASY_CHANGES:
            return _EASY_CHANGES.index(kind)
        return len(_EASY_CHANGES)

    negatives = zip(row["hard_negative_kinds"], row["hard_negatives"], strict=True)
    _, other = min(negatives, key=difficulty)
    return Example(row["image"], row["caption"], other)


@contextmanager
def open_collection(
    *,
    model: str | None = None,
    index: str | None = None,
    photos: str | None = None,
    level: str = "easy",
    num_scenes: int = NUM_SCENES,
    device: str | None = None,
) -> Iterator[Collection]:
    """
    Opens a collection of images, and indexes it first if necessary.

    Without `index` and `photos` the collection is generated scenes. A temporary index is removed at the end.

    Args:
        model: Directory or Hub id. By default the model of the index, else the small β-CLIP of the package.
        index: Index that `beta-clip index` has made. With `photos` it is brought up to date, or made if it is missing.
        photos: Folder of photos, or another source of `beta-clip index`. Without `index`, they are embedded each time.
        level: Level of the generated scenes.
        num_scenes: Number of the generated scenes.
        device: See [`load_embedder`].

    Raises:
        ValueError: if there is no index or no photo, or if the model is not the model of the index.
        ImportError: without LanceDB.
    """
    existing_index = None
    if index is not None and exists(index):
        existing_index = index
    if index is not None and existing_index is None and photos is None:
        raise ValueError(f"index must be what beta-clip index has made, but {index} is none: give --photos to make it")
    info: Mapping[str, Any] = {}
    if existing_index is not None:
        info = ImageTable.open(existing_index).info
    model_name = model or info.get("model") or default_model()
    embedder = load_embedder(model_name, device=device, dtype=info.get("dtype", "float32"))
    with TemporaryDirectory(prefix="beta-clip-demo-") as folder:
        if existing_index is not None:
            opened = PhotoIndex.open(existing_index, embedder)
            yield _photo_collection(opened, index, photos)
        elif photos is not None:
            opened = _create_index(index or Path(folder) / "index", embedder, model_name)
            yield _photo_collection(opened, index, photos)
        else:
            # Patch features make heat maps fast. For a collection of this size their space does not matter.
            opened = _create_index(Path(folder) / "index", embedder, model_name, store_patches=True)
            yield _scene_collection(opened, num_scenes, level)


def _create_index(path: str | Path, embedder: Embedder, model_name: str, *, store_patches: bool = False) -> PhotoIndex:
    """Creates an empty index, which keeps patch features only if the model has them."""
    store_patches = store_patches and embedder.has_patch_features
    return PhotoIndex.create(path, embedder, model_name=model_name, store_patches=store_patches)


def _photo_collection(opened: PhotoIndex, index: str | None, photos: str | None) -> Collection:
    """Brings an index up to date with photos, and names the collection after them or after the index."""
    if photos is not None:
        added = opened.add(photos)
        for location, reason in added.unreadable.items():
            logger.warning("unreadable: %s: %s", location, reason)
    name = os.path.basename(str(photos or index).rstrip("/"))
    return Collection(opened, f"{len(opened):,} images of {name}")


def _scene_collection(opened: PhotoIndex, num_scenes: int, level: str) -> Collection:
    """Fills an index with generated scenes."""
    scenes = SceneDataset(num_scenes, seed=SCENE_SEED, image_size=SCENE_SIDE, level=level)
    opened.add(scene_rows(scenes), name="scenes")
    return Collection(opened, f"{num_scenes} generated scenes", scenes)


def scene_rows(scenes: SceneDataset) -> list[dict[str, Any]]:
    """Returns scenes as rows of an index. Their pictures are PNG files in memory."""
    rows = []
    for place in range(len(scenes)):
        scene = scenes[place]
        file = io.BytesIO()
        scene["image"].save(file, "PNG")
        rows.append({"image": file.getvalue(), "caption": scene["caption"], "id": scene["id"]})
    return rows
