"""Samples of the images of data sets, by which evaluations tell whether a model was trained on their images."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..data.formats.hub import undecoded
from .identity import image_digest
from .shards import split


# So many images are read at the start of a training. Of a larger data set they are evenly spaced.
SAMPLED_IMAGES = 5000
# Drawing a scene takes longer than reading a file.
SAMPLED_SCENES = 500
# 64 bits of a hash: two of 10 million different images have the same with a probability of 3 in a million.
DIGEST_CHARACTERS = 16


class ImageSample(NamedTuple):
    """Hashes of the images of a data set: of all, or of evenly spaced ones."""

    total: int
    """Number of images of the data set."""
    digests: tuple[str, ...]
    """The first characters of [`image_digest`] of each image that is part of the sample."""

    @classmethod
    def read(cls, rows: Any) -> "ImageSample | None":
        """
        Reads the images of a data set. Images that cannot be read are left out.

        Args:
            rows: A data set that is read by index, whose rows have an `image`.

        Returns:
            The sample; `None` for a stream, which would have to be read a second time, and for rows of another kind.
        """
        if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            return None
        if hasattr(rows, "cast_column"):
            # The file is hashed, which is faster than its pixels, and the same in any reader.
            rows = undecoded(rows)
        limit = SAMPLED_SCENES if hasattr(rows, "num_scenes") else SAMPLED_IMAGES
        digests = []
        for index in _evenly_spaced(len(rows), limit):
            row = rows[index]
            if not isinstance(row, Mapping) or "image" not in row:
                return None
            try:
                digests.append(image_digest(row["image"]))
            except (OSError, TypeError, ValueError, AttributeError):
                # The collator skips it, too.
                continue
        return cls(len(rows), tuple(map(_shortened, digests)))

    @classmethod
    def of_digests(cls, digests: bytes | bytearray) -> "ImageSample":
        """Makes the sample of images whose digests are known, 32 bytes each, one after the other."""
        distinct = list(dict.fromkeys(split(bytes(digests), 32)))
        indices = _evenly_spaced(len(distinct), SAMPLED_IMAGES)
        return cls(len(distinct), tuple(_shortened(distinct[index]) for index in indices))

    @classmethod
    def from_json(cls, record: Any) -> "ImageSample | None":
        """Returns the sample of a record as of [`to_json`]; `None` for anything else."""
        try:
            return cls(int(record["images"]), tuple(split(record["sha256"], DIGEST_CHARACTERS)))
        except (TypeError, KeyError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Returns a record of it. The digests are one text, so that they take one line of a file."""
        return {"images": self.total, "sha256": "".join(self.digests)}

    def share_in(self, other: "ImageSample") -> float:
        """Returns the share of these images that another data set has too; an estimate if a sample is incomplete."""
        if not self.digests or not other.digests:
            return 0.0
        images = set(self.digests)
        found = len(images.intersection(other.digests)) / len(images)
        return min(1.0, found * other.total / len(other.digests))


def _evenly_spaced(length: int, limit: int) -> list[int]:
    """Returns at most `limit` places of a sequence, at equal distances."""
    number = min(length, limit)
    return [index * length // number for index in range(number)]


def _shortened(digest: bytes) -> str:
    return digest.hex()[:DIGEST_CHARACTERS]


__all__ = ["ImageSample"]
