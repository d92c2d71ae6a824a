"""transformers' own tests of models and configurations: of a plain, a flat and a two-path model with regions."""

import unittest

import pytest

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from integration.mixins import model_tests
from integration.mixins.model_inputs import FlatInputs, PlainInputs, RegionInputs


pytestmark = [pytest.mark.slow, pytest.mark.mixins]


class OnCLIP:
    all_model_classes = (BetaCLIPModel,)
    model_class = BetaCLIPModel
    config_class = BetaCLIPConfig
    common_properties = ("projection_dim", "logit_scale_init_value", "beta")
    additional_model_inputs = ("pixel_values",)


class TestPlainModel(OnCLIP, model_tests.CommonTests, unittest.TestCase):
    inputs_class = PlainInputs


class TestFlatModel(OnCLIP, model_tests.FlatTests, unittest.TestCase):
    inputs_class = FlatInputs


class TestRegionModel(TestFlatModel):
    inputs_class = RegionInputs
