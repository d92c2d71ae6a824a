"""Names the rules of measurement in versions. Two metrics may be compared if their protocols have the same hash."""

import hashlib
import json
from dataclasses import asdict, dataclass

from .benchmarks import BENCHMARKS
from .hierarchical import WEIGHT_STEPS
from .ranks_by_score import WEIGHTS
from .retrieval import RERANKED


@dataclass(frozen=True)
class Protocol:
    """
    All that changes a metric, except for the model and the data.

    Whoever changes a rule below, or the code behind it in a way that changes metrics, gives the protocol a new version.
    The rules are part of the hash: another wording is another protocol.
    """

    name: str
    """Name with a version, such as `urban1k/v1`."""
    task: str
    """What is measured of the benchmark, and by which texts."""
    dtype: str = "float32"
    """Precision of the model."""
    images: str = "resized and cropped by the model's own processor"
    texts: str = (
        "cleaned and tokenised by the model's own processor, cut to its context with the end-of-text token kept; "
        "captions take the long path of a model with two, all other texts the short one"
    )
    scores: str = (
        "cosines in float32; those of shortlists are of the best by CLS, "
        f"{', '.join(map(str, RERANKED))}; a sum has one of the weights {', '.join(map(str, WEIGHTS))}, "
        "chosen for each half of the queries on the other; so are those of hierarchical scores, in steps of "
        f"1/{WEIGHT_STEPS}, of the whole text, the mean of its sentences and the mean of its phrases"
    )
    ties: str = (
        "the expected value over random orders: n tied for the best count 1/n each; of candidates tied at the end of a "
        "shortlist all are in it, or none; copies of an image, and equal texts, are tied"
    )
    intervals: str = "95 % percentile bootstrap over 1,000 resamples of whole images; the candidates stay"

    @property
    def rules(self) -> dict[str, str]:
        """All fields except for the name."""
        rules = asdict(self)
        del rules["name"]
        return rules

    @property
    def hash(self) -> str:
        """The first 16 digits of a SHA-256 over name and rules."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def squash(self) -> bool:
        """Whether images are resized to a square without a crop, which changes their shape."""
        return self.images == SQUASHED


SQUASHED = "both sides resized to the model's size, nothing cropped"
# Tasks whose boxes must be seen whole.
_IMAGES = {
    "fg_ovd": SQUASHED,
    "coco_boxes": SQUASHED,
    "lvis_boxes": SQUASHED,
    "photos": f"{Protocol.images}; in the part fg_ovd {SQUASHED}",
}


# Tasks whose rules have changed: version 1 of the boxes had one prompt.
_VERSIONS = {"coco_boxes": 2, "lvis_boxes": 2}


def protocol_of(task: str, dtype: str = "float32") -> Protocol:
    """Returns the current protocol of a task for a model of a precision."""
    images = _IMAGES.get(task, Protocol.images)
    version = _VERSIONS.get(task, 1)
    return Protocol(f"{task}/v{version}", BENCHMARKS[task].protocol, dtype, images=images)
