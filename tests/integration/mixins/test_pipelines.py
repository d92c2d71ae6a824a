"""transformers' own tests of pipelines, on a plain, a flat and a two-path model with regions."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

import pytest

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from integration.mixins import pipeline_checks, source
from integration.mixins.model_inputs import FlatInputs, PlainInputs, RegionInputs


# The file of tests reads which tokenizer and image processor a tiny model has, as soon as it is imported.
TINY_MODELS = Path(__file__).parent / "tiny_models"
with patch.dict(os.environ, TRANSFORMERS_TINY_MODEL_PATH=str(TINY_MODELS)):
    pipelines = source.load("test_pipeline_mixin")
pytestmark = [pytest.mark.slow, pytest.mark.mixins]

CHECKS = {
    "image-feature-extraction": pipeline_checks.ImageFeatureExtractionChecks,
    "zero-shot-image-classification": pipeline_checks.ZeroShotImageClassificationChecks,
}


def checks_by_task():
    """Returns where the mixin looks up the checks of a task: a name to import; classes in older versions."""
    is_name = isinstance(pipelines.pipeline_test_mapping["image-feature-extraction"]["test"], str)
    return {
        task: {"test": f"{checks.__module__}.{checks.__qualname__}" if is_name else checks}
        for task, checks in CHECKS.items()
    }


class PipelineTests(pipelines.PipelineTesterMixin):
    """Saves a model and its processor where the mixin looks for a tiny one."""

    inputs_class = PlainInputs
    pipeline_model_mapping = dict.fromkeys(CHECKS, BetaCLIPModel)

    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        directory = Path(folder) / BetaCLIPConfig.model_type / BetaCLIPModel.__name__
        tokenizer = train_clip_tokenizer([], vocab_size=514)
        self.model(tokenizer).save_pretrained(directory)
        BetaCLIPProcessor.from_image_size(tokenizer, image_size=30).save_pretrained(directory)
        self.enterContext(patch.object(pipelines, "TRANSFORMERS_TINY_MODEL_PATH", folder))
        self.enterContext(patch.object(pipelines, "pipeline_test_mapping", checks_by_task()))
        # It compares transformers' own pipelines with the Hub's description of their arguments.
        self.enterContext(patch.object(pipelines, "task_to_pipeline_and_spec_mapping", {}))

    def model(self, tokenizer):
        """Returns a model that has the words of the tokenizer."""
        sizes = self.inputs_class().get_config().to_dict()
        words = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
        towers = {"text_config": {**sizes["text_config"], **words}, "vision_config": sizes["vision_config"]}
        return BetaCLIPModel(BetaCLIPConfig(**towers, projection_dim=32, **self.inputs_class.switches))


# The mixin has two tests for each task of transformers. Those of other tasks would be skipped one by one.
for name in dir(PipelineTests):
    if name.startswith("test_pipeline_"):
        task = name.removeprefix("test_pipeline_").removesuffix("_fp16").replace("_", "-")
        if task not in CHECKS:
            setattr(PipelineTests, name, None)


class TestPlainModel(PipelineTests, unittest.TestCase):
    pass


class TestFlatModel(PipelineTests, unittest.TestCase):
    inputs_class = FlatInputs


class TestRegionModel(PipelineTests, unittest.TestCase):
    inputs_class = RegionInputs
