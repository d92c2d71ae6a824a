"""The text path of each kind of texts in each task of `evaluate`, for a model on SigLIP 2 towers, and for FG-CLIP."""

from itertools import chain

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.evaluation.benchmarks.registry import BENCHMARKS
from beta_clip_hf.evaluation.evaluator import measure
from beta_clip_hf.evaluation.zero_shot import Classes
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.text_kinds import TEXT_KINDS, path_of_kind
from inference.any_grid import loaded, model_folder


BOX = [0, 0, 20, 20]
# By what a row has: its columns, and the path that each of their texts takes.
LABELS = {
    "caption": (
        {"caption": "A red dog runs. It is wet.", "sentences": ["A red dog runs.", "It is wet."], "phrases": ["a dog"]},
        {"A red dog runs. It is wet.": "long", "A red dog runs.": "short", "It is wet.": "short", "a dog": "box"},
    ),
    "captions": (
        {"caption": "One dog. A cat.", "captions": ["One dog.", "A cat."]},
        {"One dog. A cat.": "long", "One dog.": "short", "A cat.": "short"},
    ),
    "hard negatives": (
        {"caption": "True words.", "hard_negatives": ["False words."]},
        {"True words.": "long", "False words.": "long"},
    ),
    "choices": (
        {"choices": [{"text": "a real choice", "negatives": ["a foil"]}]},
        {"a real choice": "short", "a foil": "short"},
    ),
    "region negatives": (
        {"regions": [{"box": BOX, "text": "a red cup", "negatives": ["a blue cup"]}]},
        {"a red cup": "box", "a blue cup": "box"},
    ),
    "label": ({"label": 0}, {"a photo of a crow.": "short", "a photo of a wren.": "short"}),
    "region labels": (
        {"regions": [{"box": BOX, "text": "crow", "label": 0}]},
        {"a photo of a crow.": "box", "a photo of a wren.": "box"},
    ),
    "phrases": ({"phrases": [{"text": "the left ear", "boxes": [BOX], "kind": "part"}]}, {"the left ear": "box"}),
}
LABELS_OF_TASK = {
    "urban1k": ["caption"],
    "sharegpt4v_1k": ["caption"],
    "dci": ["caption"],
    "long_dci": ["caption"],
    "docci": ["caption"],
    "iiw": ["caption"],
    "coco": ["captions"],
    "flickr30k": ["captions"],
    "fg_ovd": ["region negatives"],
    "imagenet": ["label"],
    "coco_boxes": ["region labels"],
    "lvis_boxes": ["region labels"],
    "sugarcrepe": ["choices"],
    "valse": ["choices"],
    "phrases": ["phrases"],
    "photos": ["captions", "choices", "region negatives", "phrases"],
    "scenes": ["captions", "hard negatives", "region negatives", "phrases"],
}


class Recorder(Embedder):
    """Remembers the path of each text."""

    def texts_on_path(self, texts, path):
        self.paths = getattr(self, "paths", set()) | {(text, path) for text in texts}
        return super().texts_on_path(texts, path)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    return loaded(model_folder(tmp_path_factory.mktemp("model") / "model", "any grid"))


def test_all_tasks_are_listed():
    assert set(LABELS_OF_TASK) == set(BENCHMARKS)


@pytest.mark.slow
@pytest.mark.parametrize("labels", sorted(set(chain.from_iterable(LABELS_OF_TASK.values()))))
def test_texts_take_their_path(system, labels):
    columns, paths = LABELS[labels]
    embedder = Recorder(*system)
    rows = [{"image": Image.new("RGB", (40, 24 + 8 * number), "red"), **columns} for number in range(2)]
    measure(embedder, rows, classes=Classes(["crow", "wren"]))
    found = {text: set() for text in paths}
    for text, path in embedder.paths:
        if text in found:
            found[text].add(path)
    # A caption that is its own sentence or phrase has their paths too.
    for text, path in paths.items():
        assert path in found[text], text
    if "caption" not in columns:
        assert found == {text: {path} for text, path in paths.items()}
    assert found.get("A red dog runs. It is wet.", {"long"}) == {"long"}


def test_every_path_is_in_lower_case(system):
    embedder = Embedder(*system)
    for kind in TEXT_KINDS:
        assert torch.equal(embedder.texts(["A RED Dog"], kind), embedder.texts(["a red dog"], kind))


def test_only_captions_of_fg_clip_take_its_long_path(both_systems_config, tiny_config, tiny_tokenizer):
    model = BetaCLIPModel(both_systems_config).eval()
    paths = {kind: path_of_kind(model.config, kind) for kind in TEXT_KINDS}
    assert paths.pop("caption") == "long" and set(paths.values()) == {None}
    processor = BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, short_max_length=77)
    embedder = Embedder(model, processor)
    assert [embedder.description_kind([text]) for text in ("A dog.", "A dog. A cat.", "a dog " * 50)] == [
        "short_caption",
        "caption",
        "caption",
    ]
    assert {path_of_kind(tiny_config, kind) for kind in TEXT_KINDS} == {None}
    with pytest.raises(ValueError, match=r"kind must be one of .*, but is 'captions'"):
        path_of_kind(tiny_config, "captions")
