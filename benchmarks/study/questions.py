"""The claims of the papers as questions, and the comparisons that answer them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .analysis import Comparison
from .arms import BASE


LONG = "long/cls/text_to_image/R@1"
LONG_ALL = "long/all_pairs/text_to_image/R@1"
SHORT = "short/cls/text_to_image/R@1"
SHORT_ALL = "short/all_pairs/text_to_image/R@1"
REGION_CLS = "region_negatives/cls/accuracy"
REGION_CONDITIONED = "region_negatives/conditioned/accuracy"
REGION_FEATURE = "region_negatives/region/accuracy"
COLOUR = "hard_negatives[colour]/cls/accuracy"
RELATION = "hard_negatives[relation]/cls/accuracy"
RELATION_CONDITIONED = "hard_negatives[relation]/conditioned/accuracy"
POINT_ATTENTION = "phrases[noun]/attention/pointing"
POINT_REGION = "phrases[noun]/region_similarity/pointing"
MASS = "phrases[noun]/attention/mass_inside"

LABELS = {
    LONG: "long R@1, CLS",
    LONG_ALL: "long R@1, all pairs",
    SHORT: "short R@1, CLS",
    SHORT_ALL: "short R@1, all pairs",
    REGION_CLS: "region among 11, CLS",
    REGION_CONDITIONED: "region among 11, conditioned",
    REGION_FEATURE: "region among 11, region feature",
    COLOUR: "colours exchanged, CLS",
    RELATION: "relation exchanged, CLS",
    RELATION_CONDITIONED: "relation exchanged, conditioned",
    POINT_ATTENTION: "noun pointing, attention",
    POINT_REGION: "noun pointing, region similarity",
    MASS: "noun mass in box, attention",
}
"""Metric → its name on the page. R@1 is from text to image."""
SUMMARY = tuple(metric for metric in LABELS if metric not in (RELATION_CONDITIONED, MASS))
"""Columns of the summary tables."""

REGIONS = (REGION_CLS, REGION_CONDITIONED, REGION_FEATURE)
RETRIEVAL = (LONG, SHORT)
POINTING = (POINT_ATTENTION, POINT_REGION)
ALL_METRICS = (*RETRIEVAL, *REGIONS, *POINTING)
# Those that a plain CLIP has too.
_RECIPE_METRICS = (*RETRIEVAL, REGION_CLS, REGION_FEATURE, COLOUR, RELATION, POINT_REGION)


@dataclass(frozen=True)
class Question:
    """A question with the comparisons that answer it."""

    title: str
    comparisons: tuple[Comparison, ...]
    mode: str = "all"
    """"all": yes if each comparison holds. "any": yes if one does. "each": the answer lists those that are decided."""
    note: str = ""
    trend: tuple[str, ...] = field(default=())
    """Arms whose pointing over the scenes is shown besides."""


def versus(arm: str, other: str, metrics: Sequence[str], expectation: str = "") -> list[Comparison]:
    """Compares two arms by some metrics."""
    return [Comparison(arm, other, metric, metric, expectation) for metric in metrics]


def against_cls(arm: str, text_set: str, scores: Sequence[str]) -> list[Comparison]:
    """Compares text-conditioned scores of retrieval with CLS, from text to image, for the same models."""
    cls_metric = f"{text_set}/cls/text_to_image/R@1"
    metrics = [f"{text_set}/{score}/text_to_image/R@1" for score in scores]
    return [Comparison(arm, arm, metric, cls_metric, "different") for metric in metrics]


def _joined(*groups: Sequence[Comparison]) -> tuple[Comparison, ...]:
    joined: list[Comparison] = []
    for group in groups:
        joined += group
    return tuple(joined)


def _each(arms: Sequence[str], metrics: Sequence[str], other: str = BASE) -> tuple[Comparison, ...]:
    return _joined(*(versus(arm, other, metrics, "different") for arm in arms))


_CONDITIONED_ARMS = (BASE, "bce", "ce_b0", "mismatched_1", "both_systems")
_CONDITIONED_SCORES = ("all_pairs", "rerank@16", "sum")
_HIERARCHICAL_SCORES = ("hierarchical", "hierarchical_window")

QUESTIONS = (
    Question(
        "What does β-CAL add to plain CLIP at equal steps?",
        _joined(versus(BASE, "plain", [*RETRIEVAL, REGION_CLS, REGION_FEATURE, COLOUR, POINT_REGION], "different")),
        mode="each",
    ),
    Question(
        "Is conditioning needed, or are sentences and phrases as more positives enough?",
        _joined(
            versus(BASE, "positives", [*RETRIEVAL, REGION_CLS, REGION_FEATURE, POINT_REGION], "different"),
            versus("positives", "plain", [*RETRIEVAL, REGION_CLS, REGION_FEATURE, POINT_REGION], "different"),
        ),
        mode="each",
    ),
    Question(
        "Does β = 0 with many phrases ruin the fine-grained task?",
        _joined(
            versus("ce_b0_k36", "ce_k36", REGIONS, "lower"),
            versus("ce_b0", BASE, REGIONS, "lower"),
            versus("ce_b0", BASE, [*RETRIEVAL, *POINTING]),
        ),
    ),
    Question("Does cross-entropy sharpen?", _joined(versus(BASE, "bce", REGIONS, "higher"))),
    Question(
        "Does binary cross-entropy retrieve better?",
        _joined(versus("bce", BASE, RETRIEVAL, "higher"), versus("bce", BASE, [LONG_ALL, SHORT_ALL])),
    ),
    Question(
        "Do more texts of an image help cross-entropy only?",
        _joined(
            versus("ce_k36", "ce_k1", REGIONS, "higher"),
            versus("bce_k36", "bce_k1", REGIONS, "not higher"),
            versus("ce_k6", "ce_k1", REGIONS),
            versus("bce_k6", "bce_k1", REGIONS),
        ),
        note="Easy captions have 4 to 5 sentences and about 8 phrases, so that 36 is never reached: the arm takes all.",
    ),
    Question(
        "Is β from 0.5 to 1 flat?",
        _joined(
            versus("ce_b1", BASE, ALL_METRICS, "equal"),
            versus("ce_b025", BASE, ALL_METRICS),
            versus("bce_b1", "bce", ALL_METRICS),
        ),
    ),
    Question(
        "Does a larger contrast hurt fine-grained accuracy?",
        _joined(
            versus("contrast_1024", BASE, REGIONS, "lower"),
            versus("contrast_256", BASE, REGIONS, "lower"),
            versus("contrast_64", BASE, REGIONS),
            versus("contrast_256", BASE, RETRIEVAL),
        ),
        note="All arms see the same number of scenes. A larger contrast therefore takes fewer steps, at the same "
        "learning rates: this compares budgets of data, not of steps.",
    ),
    Question(
        "Does the order of drawn sentences matter?",
        _joined(
            versus("sampled_random", "sampled_reading", ALL_METRICS, "different"),
            versus("sampled_reading", BASE, ALL_METRICS),
        ),
        mode="any",
    ),
    Question(
        "When does conditioning help retrieval?",
        _joined(
            *(against_cls(arm, "long", _CONDITIONED_SCORES) for arm in _CONDITIONED_ARMS),
            *(against_cls(arm, "short", _CONDITIONED_SCORES) for arm in _CONDITIONED_ARMS),
        ),
        mode="each",
        note="Each text-conditioned score against CLS of the same models, from text to image.",
    ),
    Question(
        "Does it help to search by sentences and phrases too?",
        _joined(
            *(against_cls(arm, "long", _HIERARCHICAL_SCORES) for arm in ("plain", *_CONDITIONED_ARMS)),
            *(against_cls(arm, "short", _HIERARCHICAL_SCORES) for arm in ("plain", *_CONDITIONED_ARMS)),
        ),
        mode="each",
        note="The hierarchical scores ([Evaluation](evaluation.md)) against CLS of the same models, text to image.",
    ),
    Question(
        "Do mismatched-condition negatives help?",
        _each(("mismatched_1", "mismatched_01"), ALL_METRICS),
        mode="each",
    ),
    Question("How many heads?", _each(("heads_1", "heads_4", "heads_8"), ALL_METRICS), mode="each"),
    Question(
        "What do LayerNorm and null token of the pooler change?",
        _each(("qkv_norm", "null_token"), ALL_METRICS),
        mode="each",
    ),
    Question(
        "Does it help to leave identical texts of other images out of the negatives?",
        _each(("mask_identical",), ALL_METRICS),
        mode="each",
    ),
    Question(
        "What do regions and hard negatives add, alone and with β-CAL?",
        _joined(
            versus("plain_regions", "plain", [*RETRIEVAL, REGION_CLS, REGION_FEATURE, POINT_REGION], "different"),
            versus("ce_regions", BASE, ALL_METRICS, "different"),
            versus("both_systems", BASE, ALL_METRICS, "different"),
        ),
        mode="each",
    ),
    Question(
        "Does pointing fall again with more training, and what keeps it?",
        _joined(
            *(
                versus(arm, BASE, [POINT_ATTENTION, MASS, POINT_REGION], "different")
                for arm in ("ce_b0", "bce", "mismatched_1", "null_token", "qkv_norm", "heads_1", "ce_regions")
            )
        ),
        mode="each",
        trend=(BASE, "ce_b0", "bce", "mismatched_1", "null_token", "heads_1", "heads_8", "ce_regions", "both_systems"),
    ),
    Question(
        "What teaches relations?",
        _each(
            (
                "text_negatives",
                "conditioned_negatives",
                "both_negatives",
                "bce",
                "mismatched_1",
                "both_systems",
                "sampled_random",
            ),
            [RELATION, RELATION_CONDITIONED],
        ),
        mode="each",
        note="Chance is 50 %. The captions of an exchanged relation differ in the order of two nouns alone.",
    ),
    Question(
        "Is everything at once better than β-CAL alone, and than plain fine-tuning?",
        _joined(
            _each(("recommended", "recommended_captions"), _RECIPE_METRICS),
            _each(("recommended", "recommended_captions"), _RECIPE_METRICS, other="plain"),
            _each(("recommended",), [*ALL_METRICS, RELATION], other="recommended_captions"),
        ),
        mode="each",
    ),
    Question(
        "What do DeBias-CLIP's collator modes and replayed short captions change?",
        _each(("drop_first", "drop_first_padded", "short_half"), [LONG, SHORT, *REGIONS]),
        mode="each",
    ),
)
