"""transformers' own tests of pipelines, on a plain, a flat and a region model on SigLIP 2 towers."""

import unittest

import pytest

from beta_clip_hf import BetaSiglip2Config, BetaSiglip2Model, BetaSiglip2Processor
from integration.mixins import pipeline_tests
from integration.mixins.model_inputs import FlatSiglip2Inputs, PlainSiglip2Inputs, RegionSiglip2Inputs
from model.fg_clip2_cases import word_tokenizer


pytestmark = [pytest.mark.slow, pytest.mark.mixins]


class TestPlainModel(pipeline_tests.PipelineTests, unittest.TestCase):
    model_class = BetaSiglip2Model
    inputs_class = PlainSiglip2Inputs

    def save(self, directory):
        sizes = pipeline_tests.sizes_of(self.inputs_class, word_tokenizer())
        # Pipelines pad the texts of every SigLIP to 64 tokens.
        sizes["text_config"]["max_position_embeddings"] = sizes["long_text_max_position_embeddings"] = 64
        BetaSiglip2Model(BetaSiglip2Config(**sizes)).save_pretrained(directory)
        BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4, max_num_patches=16).save_pretrained(
            directory
        )


class TestFlatModel(TestPlainModel):
    inputs_class = FlatSiglip2Inputs


class TestRegionModel(TestPlainModel):
    inputs_class = RegionSiglip2Inputs
