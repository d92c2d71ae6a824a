"""Measures anew how sure a search can be, when a collection has changed."""

from ..inference.embedder import Embedder
from ..inference.quantization import truncate
from .calibration import calibrate, null_texts
from .table import ImageTable


# Of so many captions, some become queries without a match.
CAPTIONS_READ = 10_000


def recalibrate(table: ImageTable, embedder: Embedder) -> None:
    """
    Measures and keeps the scores of texts without a match, if the collection has changed much since the last time.

    Args:
        table: The index.
        embedder: Its embedder. With several processes all must call this.
    """
    processes = embedder.shards.processes
    texts = None
    if processes.rank == 0:
        earlier = table.read_calibration()
        if earlier is None or earlier.is_outdated(len(table)):
            texts = null_texts(table.some("caption", CAPTIONS_READ))
    texts = processes.broadcast(texts)
    if texts is None:
        return
    # A search encodes descriptions so.
    embeds_ND = embedder.descriptions([text.text for text in texts]).cpu()
    if processes.rank == 0:
        embeds_ND = truncate(embeds_ND, table.info.get("truncate_dim"))
        calibration = calibrate(texts, embeds_ND.numpy(), table.vectors())
        if calibration is not None:
            table.write_calibration(calibration)
