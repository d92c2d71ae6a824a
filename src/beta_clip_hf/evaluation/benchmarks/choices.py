"""Benchmarks that choose between a caption and a foil, in which something is wrong: SugarCrepe and VALSE."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .layout import Annotations, Place, by_image, each, read_json, text


# As released. The paper's table says 246 for swap_obj, and 7,512 in all; the file has 245.
SUGARCREPE = {
    "add_att": 692,
    "add_obj": 2062,
    "replace_att": 788,
    "replace_obj": 1652,
    "replace_rel": 1406,
    "swap_att": 666,
    "swap_obj": 245,
}

# The files of VALSE, each with the phenomenon under which the paper's Table 1 counts it.
VALSE = {
    "existence": "existence",
    "plurals": "plurality",
    "counting-hard": "counting",
    "counting-small-quant": "counting",
    "counting-adversarial": "counting",
    "relations": "relations",
    "action-replacement": "actions",
    "actant-swap": "actions",
    "coreference-standard": "coreference",
    "coreference-hard": "coreference",
    "foil-it": "foil-it",
}
VALSE_COUNTS = {
    "existence": 505,
    "plurality": 851,
    "counting": 2459,
    "relations": 535,
    "actions": 1633,
    "coreference": 812,
}
# An example counts if at least two of three annotators chose its caption, and not the foil.
VALSE_VOTES = 2

# Images of VALSE come from five data sets; which one shows in the name, and else in the field `dataset`.
_FOLDER_OF_PREFIX = {
    "COCO_train2014_": "train2014",
    "COCO_val2014_": "val2014",
    "VisualDialog_val2018_": "VisualDialog_val2018",
    "v7w_": "visual7w",
}


def read_sugarcrepe(place: Place) -> list[Annotations]:
    """The seven files; every record is one choice."""
    files = {subset: place.file(f"{subset}.json") for subset in SUGARCREPE}

    def choices() -> Iterator[tuple[str, dict[str, Any]]]:
        for subset, file in files.items():
            records = read_json(file) if file else {}
            found = each(file, records, _sugarcrepe_choice) if file else ()
            for number, (image, choice) in zip(records, found, strict=True):
                yield image, {**choice, "subset": subset, "id": f"{subset}:{number}"}

    return [
        Annotations(
            "choices",
            by_image(choices(), "choices"),
            place.coco_images(),
            published={f"choices[{subset}]": number for subset, number in SUGARCREPE.items()},
            absent=[f"{subset}.json" for subset, file in files.items() if file is None],
        )
    ]


def read_valse(place: Place) -> list[Annotations]:
    """The valid examples of the eleven files (see `VALSE_VOTES`); each file is a subset."""
    files = {subset: place.file(f"{subset}.json") for subset in VALSE}
    counted = dict.fromkeys(VALSE.values(), 0)
    choices: list[tuple[str, dict[str, Any]]] = []
    for subset, file in files.items():
        records = read_json(file) if file else {}
        found = each(file, records, _valse_choice) if file else ()
        for key, one in zip(records, found, strict=True):
            if one is not None:
                image, choice = one
                choices.append((image, {**choice, "subset": subset, "id": f"{subset}:{key}"}))
                counted[VALSE[subset]] += 1
    return [
        Annotations(
            "choices",
            by_image(choices, "choices"),
            _valse_images(place),
            published=VALSE_COUNTS,
            counted=counted,
            absent=[f"{subset}.json" for subset, file in files.items() if file is None],
        )
    ]


def _sugarcrepe_choice(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    negative = text(record["negative_caption"], "negative_caption")
    return f"val2017/{record['filename']}", {"text": text(record["caption"], "caption"), "negatives": [negative]}


def _valse_choice(record: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """`None` for an example that is not valid."""
    if record["mturk"]["caption"] < VALSE_VOTES:
        return None
    return _valse_image(record), {
        "text": text(record["caption"], "caption"),
        "negatives": [text(record["foil"], "foil")],
    }


def _valse_image(record: dict[str, Any]) -> str:
    """The image by its folder and name, as "val2017/000000534827.jpg"."""
    name = record["image_file"]
    of_prefix = (folder for prefix, folder in _FOLDER_OF_PREFIX.items() if name.startswith(prefix))
    folder = next(of_prefix, "images_512" if record["dataset"] == "SWiG" else "val2017")
    return f"{folder}/{name}"


def _valse_images(place: Place) -> Callable[[str], Path]:
    own = {
        "visual7w": place.directory("visual7w/images", "visual7w", beside=(".",)),
        "images_512": place.directory("images_512", "swig/images_512", "SWiG/images_512", beside=(".",)),
        "VisualDialog_val2018": place.directory("VisualDialog_val2018", "visdial/VisualDialog_val2018", beside=(".",)),
    }
    of_coco = place.coco_images()

    def locate(image: str) -> Path:
        folder, _, name = image.partition("/")
        return own[folder] / name if folder in own else of_coco(image)

    return locate
