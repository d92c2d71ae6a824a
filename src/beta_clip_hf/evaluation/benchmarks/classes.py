"""Zero-shot classification: the validation set of ImageNet-1k, and ImageNet-V2."""

import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...data.rows import Row
from .layout import Annotations, Place, in_folder, read_json


CLASSES = 1000
TEMPLATES = 80
NAMES_FILES = ("Prompt_Engineering_for_ImageNet.ipynb", "imagenet_openai_classnames_templates.json", "classnames.json")
FOLDERS = ("val", "imagenetv2-matched-frequency-format-val")

_SUFFIXES = (".jpeg", ".jpg", ".png")


class Prompts(NamedTuple):
    """Holds the names of the classes in the order of their labels, and the templates that a name is put into."""

    class_names: list[str]
    templates: list[str]


class ClassFolder(NamedTuple):
    """A folder with the images of a class, and the label of the class."""

    path: Path
    label: int


def read_imagenet(place: Place) -> list[Annotations]:
    """
    Reads the images of ImageNet-1k and of ImageNet-V2, either of which may be missing.

    ImageNet-1k has a folder for each class, named by the id of its WordNet synset: the label of a class is the position
    of its folder in alphabetical order. The folders of ImageNet-V2 are named by the label.
    """
    prompts = _read_prompts(place)
    parts = []
    root = place.find(FOLDERS[0], beside=(".",))
    if root is not None:
        parts.append(_annotations("1k", root, _sorted_folders(root), prompts, num_images=50000))
    root = place.find(FOLDERS[1], beside=(".",))
    if root is not None:
        parts.append(_annotations("v2", root, _numbered_folders(root), prompts, num_images=10000))
    return parts


def _annotations(
    name: str, root: Path, folders: Sequence[ClassFolder], prompts: Prompts, num_images: int
) -> Annotations:
    rows: list[Row] = []
    for folder in folders:
        # Sorted, because file systems list files in orders of their own.
        for file in sorted(os.listdir(folder.path)):
            if file.lower().endswith(_SUFFIXES):
                rows.append({"image": f"{folder.path.name}/{file}", "label": folder.label})
    return Annotations(
        "classes",
        rows,
        in_folder(root),
        name=name,
        published={"images": num_images, "classes": CLASSES, "templates": TEMPLATES},
        class_names=prompts.class_names,
        templates=prompts.templates,
    )


def _sorted_folders(root: Path) -> list[ClassFolder]:
    """Returns the folders of ImageNet-1k by label."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if len(folders) != CLASSES:
        raise ValueError(
            f"{root} must have {CLASSES} folders, one per class, empty or not, since the label of a class is the "
            f"place of its folder among them, but has {len(folders)}"
        )
    return [ClassFolder(path, label) for label, path in enumerate(folders)]


def _numbered_folders(root: Path) -> list[ClassFolder]:
    """Returns the folders of ImageNet-V2 by label."""
    folders = []
    for path in sorted(path for path in root.iterdir() if path.is_dir()):
        if not (path.name.isdecimal() and int(path.name) < CLASSES):
            raise ValueError(
                f"folders of {root} must be named by their label, 0 to {CLASSES - 1}, but one is {path.name!r}"
            )
        folders.append(ClassFolder(path, int(path.name)))
    # By number: as text, "10" comes before "2".
    return sorted(folders, key=lambda folder: folder.label)


def _read_prompts(place: Place) -> Prompts:
    """Reads names and templates from OpenAI's notebook, or from JSON with the same two lists."""
    file = place.required(*NAMES_FILES)
    content = read_json(file)
    if "cells" not in content:
        return Prompts(content["classnames"], content["templates"])
    lists: dict[str, list[str]] = {}
    for cell in content["cells"]:
        source = "".join(cell["source"])
        is_list = source.lstrip().startswith(("imagenet_classes", "imagenet_templates"))
        if cell["cell_type"] == "code" and is_list:
            lists |= _literal_assignments(source)
    missing = [name for name in ("imagenet_classes", "imagenet_templates") if name not in lists]
    if missing:
        raise ValueError(f"{file} must assign {' and '.join(missing)}, but does not")
    return Prompts(lists["imagenet_classes"], lists["imagenet_templates"])


def _literal_assignments(source: str) -> dict[str, Any]:
    """Returns the literals that Python code assigns to names, without running it."""
    values = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = ast.literal_eval(node.value)
    return values
