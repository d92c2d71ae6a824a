"""Benchmarks that choose between a caption and a foil, a caption with a mistake: SugarCrepe and VALSE."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .layout import Annotations, Place, convert_records, group_by_image, read_json, require_text


# The counts of the released files. The paper's table says 246 for swap_obj and 7,512 in all; the file has 245.
SUGARCREPE = {
    "add_att": 692,
    "add_obj": 2062,
    "replace_att": 788,
    "replace_obj": 1652,
    "replace_rel": 1406,
    "swap_att": 666,
    "swap_obj": 245,
}

# The files of VALSE, each with the phenomenon under which Table 1 of the paper counts it.
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

# The images of VALSE come from five data sets. The beginning of a name tells the folder of most of them.
_FOLDER_OF_PREFIX = {
    "COCO_train2014_": "train2014",
    "COCO_val2014_": "val2014",
    "VisualDialog_val2018_": "VisualDialog_val2018",
    "v7w_": "visual7w",
}


class ImageChoice(NamedTuple):
    """A choice, and the name of its image."""

    image: str
    choice: dict[str, Any]


def read_sugarcrepe(place: Place) -> list[Annotations]:
    """Reads the seven files, in which every record is a choice."""
    files = {subset: place.file(f"{subset}.json") for subset in SUGARCREPE}
    choices = _read_choices(files, _sugarcrepe_choice)
    annotations = Annotations(
        "choices",
        group_by_image(choices, "choices"),
        place.coco_images(),
        published={f"choices[{subset}]": count for subset, count in SUGARCREPE.items()},
        absent=_absent_files(files),
    )
    return [annotations]


def read_valse(place: Place) -> list[Annotations]:
    """Reads the valid examples (see `VALSE_VOTES`) of the eleven files. Each file is a subset."""
    files = {subset: place.file(f"{subset}.json") for subset in VALSE}
    choices = list(_read_choices(files, _valse_choice))
    counted = dict.fromkeys(VALSE.values(), 0)
    for _, choice in choices:
        counted[VALSE[choice["subset"]]] += 1
    annotations = Annotations(
        "choices",
        group_by_image(choices, "choices"),
        _locate_valse_images(place),
        published=VALSE_COUNTS,
        counted=counted,
        absent=_absent_files(files),
    )
    return [annotations]


def _read_choices(
    files: Mapping[str, Path | None], convert: Callable[[dict[str, Any]], ImageChoice | None]
) -> Iterator[ImageChoice]:
    """Yields the choices of the files that exist, without the records that `convert` leaves out."""
    for subset, file in files.items():
        if file is None:
            continue
        records = read_json(file)
        for key, converted in zip(records, convert_records(file, records, convert), strict=True):
            if converted is not None:
                choice = {**converted.choice, "subset": subset, "id": f"{subset}:{key}"}
                yield ImageChoice(converted.image, choice)


def _absent_files(files: Mapping[str, Path | None]) -> list[str]:
    return [f"{subset}.json" for subset, file in files.items() if file is None]


def _sugarcrepe_choice(record: dict[str, Any]) -> ImageChoice:
    negative = require_text(record["negative_caption"], "negative_caption")
    caption = require_text(record["caption"], "caption")
    return ImageChoice(f"val2017/{record['filename']}", {"text": caption, "negatives": [negative]})


def _valse_choice(record: dict[str, Any]) -> ImageChoice | None:
    """Returns `None` for an example that is not valid."""
    if record["mturk"]["caption"] < VALSE_VOTES:
        return None
    caption = require_text(record["caption"], "caption")
    foil = require_text(record["foil"], "foil")
    return ImageChoice(_valse_image(record), {"text": caption, "negatives": [foil]})


def _valse_image(record: dict[str, Any]) -> str:
    """Returns the folder and the name of the image, for example "val2017/000000534827.jpg"."""
    name = record["image_file"]
    for prefix, folder in _FOLDER_OF_PREFIX.items():
        if name.startswith(prefix):
            return f"{folder}/{name}"
    # The names of SWiG and of COCO's val2017 have no prefix.
    folder = "val2017"
    if record["dataset"] == "SWiG":
        folder = "images_512"
    return f"{folder}/{name}"


def _locate_valse_images(place: Place) -> Callable[[str], Path]:
    folders = {
        "visual7w": place.directory("visual7w/images", "visual7w", beside=(".",)),
        "images_512": place.directory("images_512", "swig/images_512", "SWiG/images_512", beside=(".",)),
        "VisualDialog_val2018": place.directory("VisualDialog_val2018", "visdial/VisualDialog_val2018", beside=(".",)),
    }
    locate_in_coco = place.coco_images()

    def locate(image: str) -> Path:
        folder, _, name = image.partition("/")
        if folder in folders:
            return folders[folder] / name
        return locate_in_coco(image)

    return locate
