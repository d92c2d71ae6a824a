"""transformers' own tests of pipelines, on a plain, a flat and a two-path model with regions."""

import unittest

import pytest

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from integration.mixins import pipeline_tests
from integration.mixins.model_inputs import FlatInputs, PlainInputs, RegionInputs


pytestmark = [pytest.mark.slow, pytest.mark.mixins]


class TestPlainModel(pipeline_tests.PipelineTests, unittest.TestCase):
    model_class = BetaCLIPModel
    inputs_class = PlainInputs

    def save(self, directory):
        tokenizer = train_clip_tokenizer([], vocab_size=514)
        sizes = pipeline_tests.sizes_of(self.inputs_class, tokenizer)
        sizes["text_config"]["max_position_embeddings"] = 248
        BetaCLIPModel(BetaCLIPConfig(**sizes)).save_pretrained(directory)
        BetaCLIPProcessor.from_image_size(tokenizer, image_size=30).save_pretrained(directory)


class TestFlatModel(TestPlainModel):
    inputs_class = FlatInputs


class TestRegionModel(TestPlainModel):
    inputs_class = RegionInputs
