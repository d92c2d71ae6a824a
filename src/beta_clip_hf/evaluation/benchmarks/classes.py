"""Zero-shot classification: the validation set of ImageNet-1k, and ImageNet-V2."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from .layout import Annotations, Place, read_json


CLASSES = 1000
TEMPLATES = 80
NAMES_FILES = ("Prompt_Engineering_for_ImageNet.ipynb", "imagenet_openai_classnames_templates.json", "classnames.json")
FOLDERS = ("val", "imagenetv2-matched-frequency-format-val")

_SUFFIXES = (".jpeg", ".jpg", ".png")


def read_imagenet(place: Place) -> list[Annotations]:
    """The images of `val`, in a folder per class that has the id of its WordNet synset: the labels are the places of
    the folders in alphabetical order. Those of ImageNet-V2 are in folders named by the label. Either may be absent."""
    class_names, templates = _names(place)
    parts = []
    for name, directory, published in (("1k", FOLDERS[0], 50000), ("v2", FOLDERS[1], 10000)):
        root = place.find(directory, beside=(".",))
        if root is not None:
            rows = [
                {"image": f"{folder.name}/{image}", "label": label}
                for folder, label in _labels(root, name)
                for image in sorted(os.listdir(folder))
                if image.lower().endswith(_SUFFIXES)
            ]
            counts = {"images": published, "classes": CLASSES, "templates": TEMPLATES}
            parts.append(
                Annotations(
                    "classes",
                    rows,
                    root.__truediv__,
                    name=name,
                    published=counts,
                    class_names=class_names,
                    templates=templates,
                )
            )
    return parts


def _labels(root: Path, name: str) -> Iterator[tuple[Path, int]]:
    """The folders of classes and their labels, by label."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if name == "1k":
        if len(folders) != CLASSES:
            raise ValueError(
                f"{root} must have {CLASSES} folders, one per class, empty or not, since the label of a class is the "
                f"place of its folder among them, but has {len(folders)}"
            )
        return iter([(folder, label) for label, folder in enumerate(folders)])
    wrong = [folder.name for folder in folders if not (folder.name.isdecimal() and int(folder.name) < CLASSES)]
    if wrong:
        raise ValueError(f"folders of {root} must be named by their label, 0 to {CLASSES - 1}, but one is {wrong[0]!r}")
    return iter(sorted(((folder, int(folder.name)) for folder in folders), key=lambda pair: pair[1]))


def _names(place: Place) -> tuple[list[str], list[str]]:
    """Names of the classes and templates: from OpenAI's notebook, or from JSON with the same two lists."""
    file = place.required(*NAMES_FILES)
    content = read_json(file)
    if "cells" not in content:
        return content["classnames"], content["templates"]
    found: dict[str, list[str]] = {}
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and source.lstrip().startswith(("imagenet_classes", "imagenet_templates")):
            for node in ast.parse(source).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    found[node.targets[0].id] = ast.literal_eval(node.value)
    missing = [name for name in ("imagenet_classes", "imagenet_templates") if name not in found]
    if missing:
        raise ValueError(f"{file} must assign {' and '.join(missing)}, but does not")
    return found["imagenet_classes"], found["imagenet_templates"]
