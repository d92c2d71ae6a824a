"""How figures come about, as named versions: two figures may be compared if their protocols have the same hash."""

import hashlib
import json
from dataclasses import asdict, dataclass

from .benchmarks import BENCHMARKS
from .retrieval import RERANKED, WEIGHTS


@dataclass(frozen=True)
class Protocol:
    """
    All that changes a figure but the model and the data. Whoever changes a rule below, or the code behind it in a way
    that changes figures, gives the protocol a new version.
    """

    name: str
    """As `urban1k/v1`."""
    task: str
    """What is measured of the benchmark, and by which texts."""
    dtype: str = "float32"
    """Of the model."""
    images: str = "resized and cropped by the model's own processor"
    texts: str = (
        "cleaned and tokenised by the model's own processor, cut to its context with the end-of-text token kept; "
        "captions take the long path of a model with two, all other texts the short one"
    )
    scores: str = (
        "cosines in float32; those of shortlists are of the best by CLS, "
        f"{', '.join(map(str, RERANKED))}; a sum has one of the weights {', '.join(map(str, WEIGHTS))}, "
        "chosen for each half of the queries on the other"
    )
    ties: str = (
        "the expected value over random orders: n tied for the best count 1/n each; of candidates tied at the end of a "
        "shortlist all are in it, or none; copies of an image, and equal texts, are tied"
    )
    intervals: str = "95 % percentile bootstrap over 1,000 resamples of whole images; the candidates stay"

    @property
    def rules(self) -> dict[str, str]:
        """All but the name."""
        return {name: rule for name, rule in asdict(self).items() if name != "name"}

    @property
    def hash(self) -> str:
        """The first 16 digits of a SHA-256 over name and rules."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def squash(self) -> bool:
        """Whether images are resized to a square as they are."""
        return self.images == SQUASHED


SQUASHED = "both sides resized to the model's size, nothing cropped"
_OF_BOXES = ("fg_ovd", "coco_boxes", "lvis_boxes")
_IMAGES = {
    **dict.fromkeys(_OF_BOXES, SQUASHED),
    "photos": f"{Protocol.images}; in the part fg_ovd {SQUASHED}",
}


def protocol_of(task: str, dtype: str = "float32") -> Protocol:
    """The current protocol of a task, by its id, for a model of a dtype."""
    images = _IMAGES.get(task, Protocol.images)
    return Protocol(f"{task}/v1", BENCHMARKS[task].protocol, dtype, images=images)
