"""The list of benchmarks in the order of the documentation: what each is, where to get it, and its reader."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .choices import SUGARCREPE, VALSE, read_sugarcrepe, read_valse
from .classes import FOLDERS, read_imagenet
from .layout import Annotations, Kind, Place
from .long_captions import (
    DCI_ANNOTATIONS,
    FILTERED_SHARE_CAPTIONS,
    IIW_400,
    SHARE_CAPTIONS,
    read_dci,
    read_docci,
    read_iiw,
    read_long_dci,
    read_sharegpt4v,
    read_urban1k,
)
from .photos_and_scenes import NUM_SCENES, holds_photos, read_photos
from .regions import FG_OVD_FILES, read_coco_boxes, read_fg_ovd, read_lvis_boxes, read_phrases
from .short_captions import read_coco, read_flickr30k


@dataclass(frozen=True)
class Benchmark:
    """A task of `beta-clip evaluate`, and its lines in the tables of docs/benchmarks.md."""

    id: str
    title: str
    kind: Kind
    """The kind of its main part."""
    source: str
    """Where to get it."""
    licence: str
    size: str
    layout: str
    """The files that must be in its folder."""
    protocol: str
    """How it is measured."""
    read: Callable[[Place], list[Annotations]] | None
    """The reader; `None` for a benchmark that is generated."""
    marks: Sequence[str] = ()
    """Files or directories that identify its folder; each of them is enough. Without marks any folder is taken."""
    folders: Sequence[str] = ()
    """Names of folders that it may be in, beside its id. Some are shared with other benchmarks."""


_LONG = "one caption per image, up to 248 tokens; R@k both ways"
_SHORT = "five captions per image, any of them is a hit; R@k both ways"
_BOXES = (
    "RoIAlign of the box in the squashed image against all classes, by the 80 templates of `imagenet` and, as "
    '`boxes[plain]`, by "a photo of a {}."; top-1 and top-5'
)
_FOIL = "caption against one foil; accuracy"
_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent"
_COCO_IMAGES = "COCO's images: terms of Flickr"

_ALL = (
    Benchmark(
        id="urban1k",
        title="Urban1K",
        kind="retrieval",
        source="https://huggingface.co/datasets/BeichenZhang/Urban1k",
        licence="CC BY-NC 4.0",
        size="1,000 images",
        layout="`image/*.jpg`, `caption/*.txt` of the same names",
        protocol=f"first line of each file; {_LONG}",
        read=read_urban1k,
        marks=("caption", "Urban1k/caption"),
        folders=("Urban1k",),
    ),
    Benchmark(
        id="sharegpt4v_1k",
        title="ShareGPT4V-1k",
        kind="retrieval",
        source="https://huggingface.co/datasets/Lin-Chen/ShareGPT4V; `filtered`: https://github.com/fzohra/B-CLIP",
        licence="CC BY-NC 4.0; SA-1B's images: its research licence",
        size="1,000 images; `filtered`: 1,000",
        layout=f"`{SHARE_CAPTIONS}`, images under the paths that it names (`sam/images/*.jpg`); `filtered`: "
        f"`{FILTERED_SHARE_CAPTIONS}` of β-CLIP's release",
        protocol=f"first 1,000 records, second turn of each; {_LONG}",
        read=read_sharegpt4v,
        marks=(SHARE_CAPTIONS, FILTERED_SHARE_CAPTIONS),
    ),
    Benchmark(
        id="dci",
        title="DCI",
        kind="retrieval",
        source="https://github.com/facebookresearch/DCI",
        licence="CC BY-NC 4.0; SA-1B's images: its research licence",
        size="7,805 images",
        layout="`densely_captioned_images/annotations/*.json`, `densely_captioned_images/photos/*.jpg`",
        protocol=f"short and extra caption together; {_LONG}",
        read=read_dci,
        marks=DCI_ANNOTATIONS,
    ),
    Benchmark(
        id="long_dci",
        title="Long-DCI",
        kind="retrieval",
        source="https://github.com/facebookresearch/DCI or https://huggingface.co/datasets/mderakhshani/Long-DCI",
        licence="CC BY-NC 4.0; SA-1B's images: its research licence",
        size="7,602 images",
        layout="as for `dci`, or `dci_long.csv` (tab-separated, with the columns `filepath` and `title`) and "
        "`photos/*.jpg`",
        protocol=f"extra caption alone, images without one left out; {_LONG}",
        read=read_long_dci,
        marks=("dci_long.csv", *DCI_ANNOTATIONS),
        folders=("dci",),
    ),
    Benchmark(
        id="docci",
        title="DOCCI",
        kind="retrieval",
        source="https://google.github.io/docci",
        licence="CC BY 4.0",
        size="5,000 images",
        layout="`docci_descriptions.jsonlines`, `images/*.jpg`",
        protocol=f"test split; {_LONG}",
        read=read_docci,
        marks=("docci_descriptions.jsonlines",),
    ),
    Benchmark(
        id="iiw",
        title="IIW-400",
        kind="retrieval",
        source="https://github.com/google/imageinwords, images from https://google.github.io/docci",
        licence="CC BY 4.0",
        size="400 images; `612`: 612",
        layout="`IIW-400/data.jsonl`, DOCCI's AAR images in `images_aar` (here or in `docci`); `612`: also "
        "`DOCCI_Test/data.jsonl`, `DCI_Test/data.jsonl` and the images of `docci` and `dci`",
        protocol=f"human description (`IIW`); {_LONG}",
        read=read_iiw,
        marks=IIW_400,
        folders=("imageinwords",),
    ),
    Benchmark(
        id="coco",
        title="COCO-5k",
        kind="retrieval",
        source=f"https://cocodataset.org/#download; `karpathy`: {_KARPATHY}",
        licence=f"CC BY 4.0; {_COCO_IMAGES}",
        size="5,000 images, 25,000 captions; `karpathy`: as many",
        layout="`annotations/captions_val2017.json`, `val2017/*.jpg`; `karpathy`: `dataset_coco.json`, `val2014/*.jpg`",
        protocol=f"first five captions of each image; {_SHORT}",
        read=read_coco,
        marks=("captions_val2017.json", "dataset_coco.json"),
    ),
    Benchmark(
        id="flickr30k",
        title="Flickr30k",
        kind="retrieval",
        source=f"https://shannon.cs.illinois.edu/DenotationGraph, splits from {_KARPATHY}",
        licence="non-commercial research and education",
        size="`1k`: 1,000 images, 5,000 captions; `31k`: 31,014 images, 155,070 captions",
        layout="`dataset_flickr30k.json` (Karpathy's splits), `flickr30k-images/*.jpg`",
        protocol=f"`1k`: test split; `31k`: all splits; {_SHORT}",
        read=read_flickr30k,
        marks=("dataset_flickr30k.json",),
    ),
    Benchmark(
        id="fg_ovd",
        title="FG-OVD",
        kind="regions",
        source="https://github.com/360CVGroup/FG-CLIP/tree/v1.0/data/fgovd",
        licence=f"Apache-2.0; {_COCO_IMAGES}",
        size="hard 3,545, medium 2,968, easy 1,299, trivial 3,545 regions",
        layout=", ".join(f"`{name}`" for name in FG_OVD_FILES.values())
        + "; COCO's `val2017/*.jpg` and `train2017/*.jpg` (here or in `coco`)",
        protocol="squashed image, RoIAlign of the box against its text and up to ten negatives; accuracy",
        read=read_fg_ovd,
        marks=tuple(FG_OVD_FILES.values()),
        folders=("fgovd",),
    ),
    Benchmark(
        id="imagenet",
        title="ImageNet-1k and V2",
        kind="classes",
        source="https://image-net.org, https://huggingface.co/datasets/vaishaal/ImageNetV2 and, for names and "
        "templates, https://github.com/openai/CLIP/tree/main/notebooks",
        licence="ImageNet: non-commercial research; V2, names and templates: MIT",
        size="`1k`: 50,000 images; `v2`: 10,000; 1,000 classes",
        layout=f"`{FOLDERS[0]}/n01440764/*.JPEG` …, `{FOLDERS[1]}/0/*.jpeg` …, one or both; "
        "`Prompt_Engineering_for_ImageNet.ipynb`",
        protocol="80 templates: mean of the normalised embeddings, normalised; top-1 and top-5",
        read=read_imagenet,
        marks=FOLDERS,
        folders=("IN1K_val",),
    ),
    Benchmark(
        id="coco_boxes",
        title="COCO-80 boxes",
        kind="boxes",
        source="https://cocodataset.org/#download",
        licence=f"CC BY 4.0; {_COCO_IMAGES}",
        size="36,335 boxes of 80 classes",
        layout="`annotations/instances_val2017.json`, `val2017/*.jpg`",
        protocol=f"boxes without crowds; {_BOXES}",
        read=read_coco_boxes,
        marks=("instances_val2017.json",),
        folders=("coco",),
    ),
    Benchmark(
        id="lvis_boxes",
        title="LVIS boxes",
        kind="boxes",
        source="https://www.lvisdataset.org/dataset",
        licence=f"CC BY 4.0; {_COCO_IMAGES}",
        size="1,203 classes; `val2017`: 4,809 images; `all`: 19,809 images, 244,707 boxes",
        layout="`lvis_v1_val.json`, `val2017/*.jpg`; `all`: also `train2017/*.jpg` (here or in `coco`)",
        protocol=_BOXES,
        read=read_lvis_boxes,
        marks=("lvis_v1_val.json",),
        folders=("lvis", "coco"),
    ),
    Benchmark(
        id="sugarcrepe",
        title="SugarCrepe",
        kind="choices",
        source="https://github.com/RAIVNLab/sugar-crepe",
        licence=f"MIT; {_COCO_IMAGES}",
        size=f"{sum(SUGARCREPE.values()):,} choices in 7 subsets",
        layout=", ".join(f"`{name}.json`" for name in SUGARCREPE) + "; COCO's `val2017/*.jpg` (here or in `coco`)",
        protocol=_FOIL,
        read=read_sugarcrepe,
        marks=tuple(f"{name}.json" for name in SUGARCREPE),
        folders=("sugar-crepe",),
    ),
    Benchmark(
        id="valse",
        title="VALSE",
        kind="choices",
        source="https://github.com/Heidelberg-NLP/VALSE",
        licence="MIT; images: the licences of their five data sets",
        size="6,795 choices of 6 phenomena, and FOIL-it",
        layout=", ".join(f"`{name}.json`" for name in VALSE)
        + " in `data`; `visual7w/*.jpg`, `images_512/*.jpg` (SWiG), `VisualDialog_val2018/*.jpg`, COCO's `val2017`, "
        "`val2014`, `train2014` (here or in folders beside)",
        protocol=f"examples that two of three annotators confirm; {_FOIL}",
        read=read_valse,
        marks=tuple(f"{name}.json" for name in VALSE),
    ),
    Benchmark(
        id="phrases",
        title="Flickr30k Entities",
        kind="phrases",
        source="https://github.com/BryanPlummer/flickr30k_entities",
        licence="non-commercial research and education",
        size="1,000 images, 14,481 phrases",
        layout="`test.txt`, `Sentences/*.txt`, `Annotations/*.xml`, `flickr30k-images/*.jpg` (here or in `flickr30k`)",
        protocol="pointing game and mass inside the boxes, of each phrase with a box",
        read=read_phrases,
        marks=("Sentences",),
        folders=("flickr30k_entities",),
    ),
    Benchmark(
        id="photos",
        title="Your photos",
        kind="retrieval",
        source="your own files",
        licence="yours",
        size="any",
        layout="`test.jsonl` of rows as in training, or tars (a folder's `test*.tar`, or any as a glob); optionally "
        "`eval/fgovd.jsonl`, `eval/sugarcrepe.jsonl`, `eval/valse.jsonl`",
        protocol="as in the tasks above, for the labels that the rows have",
        read=read_photos,
    ),
    Benchmark(
        id="scenes",
        title="Generated scenes",
        kind="retrieval",
        source="generated",
        licence="Apache-2.0",
        size=f"{NUM_SCENES} images",
        layout="no files",
        protocol="level medium, at the model's image size: retrieval, hard negatives, pointing",
        read=None,
    ),
)

BENCHMARKS = {benchmark.id: benchmark for benchmark in _ALL}


def find_benchmark(name: str, data: str | Path) -> Path | None:
    """
    Finds the folder of a benchmark: `data/<id>`, a folder that it shares with others, or `data` itself.

    Args:
        name: The id of the benchmark.
        data: The folder to look into. For `photos` it may also be a file, or a glob of tars.

    Returns:
        The first of these folders that holds files of the benchmark, or `None`.

    Raises:
        ValueError: if there is no benchmark of that id.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark must be one of {', '.join(BENCHMARKS)}, but is {name!r}")
    benchmark, root = BENCHMARKS[name], Path(data)
    if not benchmark.marks:
        for path in (root / name, root):
            if holds_photos(path):
                return path
        return None
    for folder_name in (name, *benchmark.folders, "."):
        folder = root / folder_name
        if any(Place(folder, root).file(mark) for mark in benchmark.marks):
            return folder
    return None


def benchmark_table() -> str:
    """Returns the two tables of docs/benchmarks.md, in Markdown: what is measured, and where the data come from."""
    measured = ["| task | benchmark | size | protocol |", f"|{'---|' * 4}"]
    data = ["| task | where to get it | licence | files |", f"|{'---|' * 4}"]
    for benchmark in BENCHMARKS.values():
        # Angle brackets make links of bare URLs.
        source = re.sub(r"https://[^\s,;]+", r"<\g<0>>", benchmark.source)
        measured.append(f"| `{benchmark.id}` | {benchmark.title} | {benchmark.size} | {benchmark.protocol} |")
        data.append(f"| `{benchmark.id}` | {source} | {benchmark.licence} | {benchmark.layout} |")
    return "\n".join([*measured, "", *data])


def format_benchmarks() -> str:
    """Formats the list that `beta-clip evaluate --list-tasks` prints: size, protocol and source of each task."""
    width = max(map(len, BENCHMARKS))
    indent = " " * (width + 2)
    lines = []
    for benchmark in BENCHMARKS.values():
        lines.append(f"{benchmark.id:<{width}}  {benchmark.title}: {benchmark.size}")
        lines.append(f"{indent}{benchmark.protocol}")
        lines.append(f"{indent}{benchmark.source}")
    # The texts are Markdown.
    return "\n".join(lines).replace("`", "")
