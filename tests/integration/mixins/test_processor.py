"""transformers' own tests of processors, of ours."""

import unittest

import pytest

from beta_clip_hf import BetaCLIPProcessor
from beta_clip_hf.data.tokenizers import train_clip_tokenizer
from integration.mixins import source


processors = source.load("test_processing_common")
pytestmark = [pytest.mark.slow, pytest.mark.mixins]

LEFT_OUT = {
    "test_init_arguments_not_in_processor_kwargs": (
        "max_length is the processor's public name for the limit of its texts, and is in every saved directory"
    ),
}


@source.leaving_out(LEFT_OUT)
class TestProcessor(processors.ProcessorTesterMixin, unittest.TestCase):
    processor_class = BetaCLIPProcessor
    # The limit is the processor's; that of a tokenizer, 77 in CLIP's own directories, is not asked.
    images_text_kwargs_max_length = 248

    @classmethod
    def _setup_tokenizer(cls):
        return train_clip_tokenizer([], vocab_size=514)

    @classmethod
    def _setup_image_processor(cls):
        return BetaCLIPProcessor.from_image_size(cls._setup_tokenizer(), image_size=32).image_processor
