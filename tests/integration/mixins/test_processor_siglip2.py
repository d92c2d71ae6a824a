"""transformers' own tests of processors, of ours for SigLIP 2 towers: of images of any grid, and of one size."""

import unittest

import pytest
from transformers import SiglipImageProcessorPil

from beta_clip_hf import BetaSiglip2Processor
from integration.mixins import source
from model.fg_clip2_cases import word_tokenizer


processors = source.load("test_processing_common")
pytestmark = [pytest.mark.slow, pytest.mark.mixins]

LEFT_OUT = {
    "test_init_arguments_not_in_processor_kwargs": (
        "max_length is the processor's public name for the positions of its texts, and is in every saved directory"
    ),
    "test_unstructured_kwargs_batched_0_images": "it wants short texts, but each text fills its path",
    "test_unstructured_kwargs_batched": "the same, in older versions",
}
ONE_SIZE_LEFT_OUT = dict.fromkeys(
    ("test_subprocessor_defaults_0_text", "test_subprocessor_defaults_1_images"),
    "it asks for defaults of the stock class, one of which SigLIP's image processor does not know",
)


@source.leaving_out(LEFT_OUT)
class TestProcessor(processors.ProcessorTesterMixin, unittest.TestCase):
    processor_class = BetaSiglip2Processor
    # Every text fills the short path.
    images_text_kwargs_max_length = 64
    images_text_kwargs_override_max_length = 64
    images_unstructured_max_length = 64

    @classmethod
    def _setup_tokenizer(cls):
        return word_tokenizer()

    @classmethod
    def _setup_image_processor(cls):
        return BetaSiglip2Processor.from_patch_size(word_tokenizer(), patch_size=4, max_num_patches=40).image_processor


@source.leaving_out(ONE_SIZE_LEFT_OUT)
class TestProcessorOfOneSize(TestProcessor):
    @classmethod
    def _setup_image_processor(cls):
        return SiglipImageProcessorPil(size={"height": 16, "width": 16})
