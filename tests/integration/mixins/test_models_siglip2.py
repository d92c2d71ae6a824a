"""transformers' own tests of models and configurations: of a plain, a flat and a region model on SigLIP 2 towers."""

import unittest

import pytest

from beta_clip_hf import BetaSiglip2Config, BetaSiglip2Model
from beta_clip_hf.model.pretrained_beta_siglip2 import PATH_PARTS
from integration.mixins import model_tests
from integration.mixins.model_inputs import FlatSiglip2Inputs, PlainSiglip2Inputs, RegionSiglip2Inputs


pytestmark = [pytest.mark.slow, pytest.mark.mixins]


class OnSiglip2:
    all_model_classes = (BetaSiglip2Model,)
    model_class = BetaSiglip2Model
    config_class = BetaSiglip2Config
    common_properties = ("projection_dim", "long_text_max_position_embeddings", "beta")
    additional_model_inputs = ("pixel_values", "pixel_attention_mask", "spatial_shapes")

    def setUp(self):
        super().setUp()
        # Its test takes any warning for an error. SigLIP 2's own default warns: its 32,000 words lack the special ones.
        self.config_tester.check_config_can_be_init_without_params = BetaSiglip2Config


class TestPlainModel(OnSiglip2, model_tests.CommonTests, unittest.TestCase):
    inputs_class = PlainSiglip2Inputs
    # A plain batch takes the short path, and no patch features: see the test below.
    test_all_params_have_gradient = False

    def test_all_but_other_paths_have_a_gradient(self):
        model = BetaSiglip2Model(self.model_tester.get_config()).train()
        model(**self.model_tester.inputs(), return_loss=True).loss.backward()
        without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert without == {name for name, _ in model.named_parameters() if name.startswith(PATH_PARTS)}


class TestFlatModel(OnSiglip2, model_tests.FlatTests, unittest.TestCase):
    inputs_class = FlatSiglip2Inputs


class TestRegionModel(TestFlatModel):
    inputs_class = RegionSiglip2Inputs
