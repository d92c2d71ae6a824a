"""Format "hf": what the library `datasets` opens: Parquet and Arrow files, data sets on the disk or on the Hub."""

import glob
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..grouping import UnreadImage
from ..records import HoldOut, Record, RecordStream, Scan, hold_out_silently, joined_name
from ..rows import row_id
from ..sharded_stream import ShardedStream
from ..workers import process_place
from .named_files import common_folder, named_files
from .source import OpenedSource, Source, SourceFormat


if TYPE_CHECKING:
    import datasets


PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow", ".feather")
_RECORDS_AT_A_TIME = 1000


class HubTable:
    """A `datasets.Dataset`. It stays on the disk where it lies there, and its images are not decoded."""

    def __init__(self, dataset: "datasets.Dataset", name: str) -> None:
        self.name = name
        self._dataset = undecoded(dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Record:
        return self._dataset[index]

    def location(self, index: int) -> str:
        """Counts the records from 0, as `datasets` does: "train.parquet:17"."""
        return f"{self.name}:{index}"

    def scan(self) -> Scan:
        """Reads all records without the columns that hold whole files."""
        features = self._dataset.features
        unread = [name for name, feature in features.items() if _holds_files(feature)]
        if len(unread) < len(features):
            records = self._dataset.remove_columns(unread)
        else:
            # Without any column, `datasets` has no rows either.
            records = ({} for _ in range(len(self)))
        presence = {name: self._presence(name) for name in unread}
        for index, record in enumerate(records):
            images: dict[str, UnreadImage | None] = {}
            for name in unread:
                images[name] = None
                if next(presence[name]):
                    images[name] = UnreadImage(partial(self._read_file, index, name))
            yield self.location(index), {**record, **images}

    def _presence(self, name: str) -> Iterator[bool]:
        """Tells of each record whether a column holds something, without reading what it holds."""
        column = self._dataset.select_columns([name]).with_format("arrow")
        for batch in column.iter(batch_size=_RECORDS_AT_A_TIME):
            for chunk in batch[name].chunks:
                present = chunk.is_valid().to_numpy(zero_copy_only=False)
                if hasattr(chunk, "field"):
                    # An image of `datasets` has bytes, a path, or both.
                    parts = [chunk.field(number).is_valid() for number in range(chunk.type.num_fields)]
                    present &= np.any([part.to_numpy(zero_copy_only=False) for part in parts], axis=0)
                yield from present.tolist()

    def _read_file(self, index: int, name: str) -> Any:
        return self._dataset.select_columns([name])[index][name]


class HubStream(RecordStream):
    """A `datasets.IterableDataset`. Its shards are split over processes here, and over workers by `datasets`."""

    def __init__(
        self, dataset: "datasets.IterableDataset", name: str, *, shuffle_buffer: int = 0, seed: int = 0
    ) -> None:
        self.name = name
        self._dataset = undecoded(dataset)
        if shuffle_buffer > 1:
            self._dataset = self._dataset.shuffle(seed=seed, buffer_size=shuffle_buffer)

    def __call__(self, epoch: int, hold_out: HoldOut = hold_out_silently) -> Scan:
        """Yields the records of an epoch that this process and worker are to read."""
        from datasets.distributed import split_dataset_by_node

        place = process_place()
        part = split_dataset_by_node(self._dataset, rank=place.rank, world_size=place.world_size)
        part.set_epoch(epoch)
        for record in part:
            yield f"{self.name}:{row_id(record)}", record


class _HubShards:
    """Reads a `datasets.IterableDataset` shard by shard, whichever process or worker asks."""

    def __init__(self, dataset: "datasets.IterableDataset", name: str) -> None:
        self.name = name
        self._dataset = undecoded(dataset)

    def numbers(self) -> range:
        """Returns the numbers of the shards."""
        return range(self._dataset.num_shards)

    def read(self, shard: int) -> Scan:
        """Yields the records of a shard in order."""
        part = self._dataset.shard(num_shards=self._dataset.num_shards, index=shard)
        # A loop over the data set itself would split the shard over the dataloader workers; `iter` does not.
        for batch in part.iter(batch_size=1):
            record = {name: values[0] for name, values in batch.items()}
            yield f"{self.name}:{row_id(record)}", record


def is_saved_dataset(folder: str | Path) -> bool:
    """Tells whether `save_to_disk` of `datasets` has written a folder."""
    names = {path.name for path in Path(folder).glob("*.json")}
    return "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names


def open_hub(source: Source) -> OpenedSource:
    """Opens a Parquet file, a saved data set, a data set on the Hub, or one that lies in memory.

    Raises:
        ValueError: if `datasets` cannot open it, or it has no such split.
        ImportError: if `datasets` is not installed.
    """
    dataset = _split_of(_dataset(source), source.split)
    name = "dataset"
    if source.path is not None:
        name = source.path.name
    folder = None
    files = _files(source)
    if files:
        folder = common_folder(files)
        name = joined_name([file.name for file in files])
    if hasattr(dataset, "__len__"):
        return OpenedSource(HubTable(dataset, name), folder)
    return OpenedSource(_stream(dataset, name, source), folder)


def _stream(dataset: "datasets.IterableDataset", name: str, source: Source) -> RecordStream:
    if source.selection is None:
        return HubStream(dataset, name, shuffle_buffer=source.shuffle_buffer, seed=source.seed)
    # `skip` and `take` of `datasets` split their numbers over workers: each worker skips some of the first records of
    # its own shards. Which records are held out would then depend on the number of workers.
    shards = _HubShards(dataset, name)
    return ShardedStream(
        name,
        shards.numbers(),
        shards.read,
        shuffle_buffer=source.shuffle_buffer,
        seed=source.seed,
        selection=source.selection,
    )


def _recognises(source: Source) -> bool:
    if source.path is None:
        return hasattr(source.place, "column_names") or _has_table_suffix(source)
    # The id of a data set on the Hub is two words, as in "user/photos".
    is_hub_id = not source.path.exists() and str(source.place).count("/") == 1
    return source.path.is_dir() or _has_table_suffix(source) or is_hub_id


def _has_table_suffix(source: Source) -> bool:
    return source.has_suffix(*PARQUET_SUFFIXES) or source.has_suffix(*ARROW_SUFFIXES)


def _files(source: Source) -> list[Path]:
    """Returns the Parquet or Arrow files that a source names; none if it is something else."""
    if source.paths is None and (source.path is None or source.path.is_dir()):
        return []
    if not _has_table_suffix(source) and not (source.path is not None and source.path.is_file()):
        return []
    return named_files(source.place, (*PARQUET_SUFFIXES, *ARROW_SUFFIXES), "Parquet or Arrow")


def _dataset(source: Source) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Parquet, Arrow and Hub data sets need `datasets`: pip install datasets") from error
    files = _files(source)
    if source.path is None and not files:
        return source.place
    try:
        if files:
            return _load_files(files, source.streaming)
        return _load(Path(source.place), source)
    # The errors of Arrow for a broken file are `ValueError`s.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"source must be a data set that `datasets` can open, but is {str(source.place)!r}: {error}"
        ) from error


def _load_files(files: Sequence[Path], streaming: bool) -> Any:
    import datasets

    if files[0].suffix.lower() in ARROW_SUFFIXES:
        tables = datasets.concatenate_datasets([_arrow_table(file) for file in files])
        return tables.to_iterable_dataset() if streaming else tables
    # `datasets` takes brackets and stars for a glob, and calls the only split of plain files "train".
    names = [glob.escape(str(file)) for file in files]
    return datasets.load_dataset("parquet", data_files=names, split="train", streaming=streaming)


def _arrow_table(file: Path) -> Any:
    """Opens an Arrow file: a stream, as `datasets` writes, or a file with an index at its end."""
    import datasets
    import pyarrow

    try:
        return datasets.Dataset.from_file(str(file))
    except pyarrow.ArrowInvalid:
        with pyarrow.memory_map(str(file)) as mapped:
            return datasets.Dataset(pyarrow.ipc.open_file(mapped).read_all())


def _load(path: Path, source: Source) -> Any:
    import datasets

    if is_saved_dataset(path):
        saved = datasets.load_from_disk(str(path))
        is_table = isinstance(saved, datasets.Dataset)
        if source.streaming and is_table:
            return saved.to_iterable_dataset()
        return saved
    return datasets.load_dataset(str(source.place), split=source.split, streaming=source.streaming)


def _split_of(dataset: Any, split: str) -> Any:
    import datasets

    if not isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return dataset
    if split not in dataset:
        raise ValueError(f"split must be one of {sorted(dataset)}, but is {split!r}")
    return dataset[split]


def undecoded(dataset: Any) -> Any:
    """Returns the data set with its images as `{"bytes", "path"}`, which `datasets` would decode by default."""
    import datasets

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset


def _holds_files(feature: Any) -> bool:
    """Tells whether a column holds whole files, as images or bytes. These are too large to be read for a check."""
    parts = [feature]
    if isinstance(feature, dict):
        parts = list(feature.values())
    return any(hasattr(part, "decode") or getattr(part, "dtype", None) == "binary" for part in parts)


HUB = SourceFormat("hf", open_hub, _recognises, can_stream=True)
