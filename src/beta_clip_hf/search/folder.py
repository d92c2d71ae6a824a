"""A folder of photos as a source of an index."""

import os
from collections.abc import Sequence

from ..data.fields import is_utf8
from ..data.rows import Row
from .columns import printable


# A photo is known by the suffix of its file. Pillow needs a plugin for some of these; without it they are listed as
# unreadable.
_SUFFIXES = ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif .jxl .jp2 .ppm .pgm"
PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())
# Folders in which systems keep thumbnails, deleted files and copies of other photos.
SYSTEM_FOLDERS = frozenset(
    {
        *("@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "lost+found", "__MACOSX"),
        *("$RECYCLE.BIN", "System Volume Information"),
    }
)


class PhotoFolder:
    """
    Lists the photos below a folder, known by their suffixes.

    Left out are hidden files and folders, those in which systems keep thumbnails and deleted files, and links to
    folders. A link to a photo that is listed itself is left out, too. A file whose name has no UTF-8 is skipped.

    Args:
        folder: The folder. It is not read before `keys` is called. Links to one folder are the same source.
        name: The name of the source. By default it is the folder.

    Raises:
        ValueError: if the name of the folder has no UTF-8.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str | None = None) -> None:
        self.skipped: list[tuple[str, str]] = []
        self._folder = os.path.realpath(folder)
        self.name = self._folder if name is None else name
        if not is_utf8(self._folder):
            raise ValueError(f"source must have a name that UTF-8 can hold, but is {printable(self._folder)!r}")

    def keys(self) -> Sequence[str]:
        """
        Lists the photos, folder by folder, in the order of their names.

        Raises:
            ValueError: if there is no photo. The disk may not be mounted, and an index must not be emptied for that.
        """
        photos, links = [], {}
        self.skipped = []
        for folder, subfolders, files in os.walk(self._folder):
            # `os.walk` visits what is left in this list, in its order.
            subfolders[:] = sorted(name for name in subfolders if not _is_left_out(name))
            for file in sorted(files):
                if os.path.splitext(file)[1].lower() not in PHOTO_SUFFIXES or file.startswith("."):
                    continue
                path = os.path.join(folder, file)
                if not is_utf8(path):
                    self.skipped.append((printable(path), "its name must be text that UTF-8 can hold, but is not"))
                    continue
                if os.path.islink(path):
                    links[path] = os.path.realpath(path)
                photos.append(path)
        if not photos:
            raise ValueError(f"source must be a folder with photos below it, but {self._folder!r} has none")
        listed = set(photos)
        return [path for path in photos if links.get(path) not in listed]

    @property
    def has_photos(self) -> bool:
        """Whether there is a photo."""
        try:
            return bool(self.keys())
        except ValueError:
            return False

    def row_digest(self, key: str) -> str:
        """Returns "", because a folder has no rows."""
        return ""

    def row(self, key: str) -> Row:
        """Returns a row that has only its image."""
        return {"image": key}

    def types(self) -> dict[str, str]:
        """Returns an empty dict, because a folder has no columns."""
        return {}


def _is_left_out(folder: str) -> bool:
    return folder.startswith(".") or folder in SYSTEM_FOLDERS
