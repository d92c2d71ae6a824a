"""Tells which files of a tar belong together, by the convention of the library webdataset.

Files with the same name up to its first dot, one after the other, are a sample. The rest of the name says what a file
is: its last part is the type, as the decoders of webdataset read it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ..records import Record, parse_record
from .caption_lines import captions_of_text


IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
TEXT_SUFFIXES = ("txt", "text", "caption")
_TYPES = {"image": IMAGE_SUFFIXES, "text": TEXT_SUFFIXES, "metadata": ("json",)}

# The content of a file, or where it is.
Content = TypeVar("Content")


class Member(NamedTuple, Generic[Content]):
    """One file of a tar."""

    key: str
    """Its name up to the first dot, with its folder: the same for all files of a sample."""
    suffix: str
    """What follows the dot, in lower case."""
    content: Content


class Sample(NamedTuple, Generic[Content]):
    """The files of a tar that make one row."""

    id: str
    image: Content | None = None
    text: Content | None = None
    metadata: Content | None = None
    """A JSON object with columns of the row."""
    error: str | None = None
    """Why the files are no row."""


def split_member_name(name: str) -> tuple[str, str] | None:
    """Splits the name of a file at the first dot after its folder; `None` for a file that webdataset passes over.

    >>> split_member_name("a.v1/0.input.JPG"), split_member_name("README"), split_member_name("__meta__.x__")
    (('a.v1/0', 'input.jpg'), None, None)
    """
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    is_about_the_tar = not slash and name.startswith("__") and name.endswith("__")
    if not stem or not suffix or is_about_the_tar:
        return None
    return folder + slash + stem, suffix.lower()


def join_members(members: Iterable[Member[Content]]) -> Iterator[Sample[Content]]:
    """Joins the files of a tar, in order, to samples."""
    key: str | None = None
    files: dict[str, Content] = {}
    repeated_suffix: str | None = None
    for member in members:
        is_repeated = member.key == key and member.suffix in files
        if member.key != key or (is_repeated and _is_whole(files)):
            if key is not None:
                yield from _samples(key, files, repeated_suffix)
            key, files, repeated_suffix = member.key, {}, None
        if is_repeated:
            # Nobody knows which of the two files of this name the rest belongs to.
            repeated_suffix = member.suffix
        files[member.suffix] = member.content
    if key is not None:
        yield from _samples(key, files, repeated_suffix)


def record_of_sample(sample: Sample[bytes | ValueError]) -> Record | ValueError:
    """Makes a record of the files of a sample. What the JSON file says of the caption comes before the text file."""
    if sample.error is not None:
        return ValueError(sample.error)
    image, metadata, text = sample.image, sample.metadata, sample.text
    if isinstance(image, ValueError):
        return image
    if isinstance(metadata, ValueError):
        return metadata
    if isinstance(text, ValueError):
        return text
    record: dict[str, Any] = {}
    try:
        if metadata is not None:
            record.update(parse_record(metadata, f"{sample.id}.json"))
        has_caption = record.get("caption") is not None or record.get("captions") is not None
        if text is not None and not has_caption:
            record.update(captions_of_text(text, f"{sample.id}.txt"))
    except ValueError as error:
        return error
    return {**record, "id": sample.id, "image": image}


def _is_whole(files: Iterable[str]) -> bool:
    """Tells whether some files are a row: an image with a text or a JSON object."""
    return bool(_of_type(files, IMAGE_SUFFIXES) and _of_type(files, (*TEXT_SUFFIXES, *_TYPES["metadata"])))


def _samples(key: str, files: dict[str, Content], repeated_suffix: str | None) -> Iterator[Sample[Content]]:
    if repeated_suffix is not None:
        # The library stops here with an error.
        yield Sample(key, error=f"a file must be in the tar once, but {key}.{repeated_suffix} comes again")
        return
    images = _of_type(files, IMAGE_SUFFIXES)
    stems = list(dict.fromkeys(_stem(suffix) for suffix in images))
    if "" in stems:
        yield _sample(key, files, "", key)
        return
    if len(stems) < 2:
        yield _sample(key, files, "".join(stems), key)
        return
    # The keys have dots: "v1.5.jpg" and "v1.6.jpg" are one sample for the library, and two photos.
    for stem in stems:
        yield _sample(key, files, stem, f"{key}.{stem}")


def _sample(key: str, files: dict[str, Content], stem: str, sample_id: str) -> Sample[Content]:
    """Chooses the files of a row: those that are named like its image, or else the only ones of their type."""
    chosen: dict[str, Content | None] = {}
    for part, types in _TYPES.items():
        suffixes = _of_type(files, types)
        named_alike = [suffix for suffix in suffixes if _stem(suffix) == stem]
        if not named_alike and len(suffixes) > 1 and part != "metadata":
            names = ", ".join(f"{key}.{suffix}" for suffix in suffixes)
            return Sample(sample_id, error=f"a sample must have one text and one image, but has {names}")
        suffix = next(iter(named_alike or suffixes), None)
        chosen[part] = None if suffix is None else files[suffix]
    return Sample(sample_id, chosen["image"], chosen["text"], chosen["metadata"])


def _of_type(files: Iterable[str], types: Sequence[str]) -> list[str]:
    """Returns the suffixes that end in one of the types, in the order of the types."""
    found = [suffix for suffix in files if suffix.rpartition(".")[2] in types]
    return sorted(found, key=lambda suffix: types.index(suffix.rpartition(".")[2]))


def _stem(suffix: str) -> str:
    """Returns a suffix without its type: "" for "jpg", "input" for "input.jpg"."""
    return suffix.rpartition(".")[0]


__all__ = ["IMAGE_SUFFIXES", "Member", "Sample", "join_members", "record_of_sample", "split_member_name"]
