"""What the demo searches: an index that is there, a folder of photos that is indexed first, or generated scenes."""

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from PIL import Image

from ..data.scenes import SceneDataset
from ..search.gallery import image_of
from ..search.index import PhotoIndex, load_embedder
from ..search.schema import exists
from ..search.table import ImageTable


logger = logging.getLogger(__name__)

DEFAULT_MODEL = "runs/demo/model"  # where `make demo` leaves it
SCENES, SCENE_SIDE = 200, 256  # pixels: the processor scales them down, people see them as they are
SCENE_SEED = 1  # those that `make demo` measures on, and has not trained on
OTHERS = {"replace": 0, "colour": 1, "shape": 2}  # the order of the hard negatives that are shown, by what they change


class Example(NamedTuple):
    """An image to try, with texts of which the second is wrong; both are empty where nothing is known of it."""

    image: Image.Image
    caption: str = ""
    other: str = ""


@dataclass
class Collection:
    """An index, and examples from it."""

    index: PhotoIndex
    title: str
    """What it is, in a few words."""
    scenes: SceneDataset | None = None
    _keys: list[str] = field(default_factory=list)

    def example(self, number: int) -> Example:
        """
        The image at a place, counted round, with its caption. Of a scene the other text is a hard negative. Images that
        can no longer be opened are passed over, and count no more.

        Raises:
            ValueError: where the collection is empty, or none of its images can be opened.
        """
        if self.scenes is not None:
            return scene_example(self.scenes[number % len(self.scenes)])
        if not self._keys:
            known = self.index.table.known().items()
            self._keys = sorted(key for key, one in known if one.file_modified_ns is None or os.path.isfile(key))
        while self._keys:
            place = number % len(self._keys)
            key = self._keys[place]
            image = image_of(key, self.index.table)
            if image is None:
                del self._keys[place]
                continue
            caption = ""
            if "caption" in self.index.table.columns:
                caption = self.index.table.fetch([key], ["caption"])[key]["caption"] or ""
            return Example(image, caption)
        has_any = len(self.index) > 0
        raise ValueError("No image of the collection can be opened." if has_any else "The collection is empty.")

    def captions(self, count: int = 3) -> list[str]:
        """Some captions of the collection, if it has any: what may be searched for."""
        if self.scenes is not None:
            return [self.scenes[place]["short_caption"] for place in range(min(count, len(self.scenes)))]
        if "caption" not in self.index.table.columns:
            return []
        return list(dict.fromkeys(self.index.table.some("caption", count)))


def scene_example(row: dict[str, Any]) -> Example:
    """A scene with its caption and the hard negative whose change is the easiest to see."""
    negatives = sorted(
        zip(row["hard_negative_kinds"], row["hard_negatives"], strict=True),
        key=lambda negative: OTHERS.get(negative[0], len(OTHERS)),
    )
    return Example(row["image"], row["caption"], negatives[0][1])


@contextmanager
def open_collection(
    *,
    model: str | None = None,
    index: str | None = None,
    photos: str | None = None,
    level: str = "easy",
    num_scenes: int = SCENES,
    device: str | None = None,
) -> Iterator[Collection]:
    """
    Opens what is to be searched, indexed where it has to be; what is made for the time of the demo is removed after it.

    Args:
        model: Directory or Hub id; by default that of the index, else what `make demo` has trained.
        index: What `beta-clip index` has made. With `photos` it is brought up to date, or made.
        photos: A folder, or another source of `beta-clip index`. Without an index it is embedded anew each time.
        level, num_scenes: Of the generated scenes, which are searched where neither is given.
        device: As in [`load_embedder`].

    Raises:
        ValueError: where there is no model, no index or no photo; where the model is not that of the index.
        ImportError: without LanceDB.
    """
    is_there = index is not None and exists(index)
    if index is not None and not is_there and photos is None:
        raise ValueError(f"index must be what beta-clip index has made, but {index} is none: give --photos to make it")
    info = ImageTable.open(index).info if index is not None and is_there else {}
    name = model or info.get("model") or DEFAULT_MODEL
    if name == DEFAULT_MODEL and not os.path.isdir(name):
        raise ValueError(f"model must be given where {DEFAULT_MODEL} is absent: run make demo first, or add --model")
    embedder = load_embedder(name, device=device, dtype=info.get("dtype", "float32"))
    with TemporaryDirectory(prefix="beta-clip-demo-") as folder:
        if is_there:
            opened = PhotoIndex.open(str(index), embedder)
        else:
            name = os.path.abspath(name) if os.path.isdir(name) else name
            keeps_patches = index is None and photos is None and embedder.has_patch_features
            place = index or Path(folder) / "index"
            opened = PhotoIndex.create(place, embedder, model_name=name, store_patches=keeps_patches)
        if photos is not None:
            added = opened.add(photos)
            for where, why in added.unreadable.items():
                logger.warning("unreadable: %s: %s", where, why)
        elif index is None:
            scenes = SceneDataset(num_scenes, seed=SCENE_SEED, image_size=SCENE_SIDE, level=level)
            opened.add(scene_rows(scenes))
            yield Collection(opened, f"{num_scenes} generated scenes", scenes)
            return
        yield Collection(opened, f"{len(opened):,} images of {os.path.basename(str(photos or index).rstrip('/'))}")


def scene_rows(scenes: SceneDataset) -> list[dict[str, Any]]:
    """The scenes as rows of an index; their pictures are PNG files in memory."""
    rows = []
    for place in range(len(scenes)):
        scene, file = scenes[place], io.BytesIO()
        scene["image"].save(file, "PNG")
        rows.append({"image": file.getvalue(), "caption": scene["caption"], "id": scene["id"]})
    return rows
