"""How figures come about, as named versions: two figures may be compared if their protocols have the same hash."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Protocol:
    """
    All that changes a figure but the model and the data. Whoever changes a rule below, or the code behind it in a way
    that changes figures, gives the protocol a new version.
    """

    name: str
    """As `urban1k/v1`."""
    images: str = "resized and cropped by the model's own processor"
    texts: str = (
        "cleaned and tokenised by the model's own processor, cut to its context with the end-of-text token kept; "
        "captions take the long path of a model with two, all other texts the short one"
    )
    scores: str = "cosines in float32 of features in the dtype that the results name"
    ties: str = "the expected value over random orders: n tied for the best count 1/n each"
    intervals: str = "95 % percentile bootstrap over 1,000 resamples of whole images; the candidates stay"

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


def protocol_of(task: str) -> Protocol:
    """The current protocol of a task, by its id."""
    return Protocol(f"{task}/v1", images=SQUASHED) if task in _OF_BOXES else Protocol(f"{task}/v1")
