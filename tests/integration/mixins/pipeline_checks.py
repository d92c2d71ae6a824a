"""
Checks of a pipeline's answers, in the form that transformers' mixin of pipeline tests looks them up.

transformers has a class like these for each task, but its sdist leaves them out.
"""

import math
from typing import Any

from PIL import Image
from transformers import pipeline


COLORS = ["red", "green", "blue"]
IMAGES = [Image.new("RGB", (48, 40), color) for color in COLORS]
# Of half precision.
ROUNDING = 2e-3


class PipelineChecks:
    """Makes the pipeline of a task; subclasses look at its answers."""

    task: str

    def get_test_pipeline(
        self, model: Any, tokenizer: Any = None, image_processor: Any = None, dtype: str = "float32", **processors: Any
    ) -> tuple[Any, list[Any]]:
        """Returns the pipeline and its examples."""
        parts = {"tokenizer": tokenizer, "image_processor": image_processor, **processors}
        return pipeline(self.task, model=model, dtype=dtype, **parts), self.examples()

    def examples(self) -> list[Any]:
        """Returns inputs of a call."""
        return IMAGES


class PipelineWithLabels:
    """A zero-shot pipeline that asks for the same labels at each call: the mixin's test of batches passes none."""

    def __init__(self, classify: Any) -> None:
        self.classify = classify
        self.tokenizer = classify.tokenizer

    def __call__(self, images: Any, **options: Any) -> Any:
        return self.classify(images, candidate_labels=COLORS, **options)


class ZeroShotImageClassificationChecks(PipelineChecks):
    """Labels of an image get scores, best first, and the same in a batch; those of CLIP sum to 1."""

    task = "zero-shot-image-classification"

    def get_test_pipeline(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Returns the pipeline and its examples."""
        classify, examples = super().get_test_pipeline(*args, **kwargs)
        return PipelineWithLabels(classify), examples

    def run_pipeline_test(self, classify: Any, examples: list[Any]) -> None:
        """Looks at the answers for each example, alone and in a batch."""
        answers = classify(examples, batch_size=2)
        assert len(answers) == len(examples)
        for example, answer in zip(examples, answers, strict=True):
            assert {choice["label"] for choice in answer} == set(COLORS)
            scores = [choice["score"] for choice in answer]
            assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
            # The score of a SigLIP is the probability of a label alone.
            is_siglip = "siglip" in classify.classify.model.config.model_type
            assert is_siglip or math.isclose(sum(scores), 1, abs_tol=ROUNDING)
            scores_alone = {choice["label"]: choice["score"] for choice in classify(example)}
            for choice in answer:
                assert math.isclose(choice["score"], scores_alone[choice["label"]], abs_tol=ROUNDING)


class ImageFeatureExtractionChecks(PipelineChecks):
    """An image gets its normalised embedding."""

    task = "image-feature-extraction"

    def run_pipeline_test(self, embed: Any, examples: list[Any]) -> None:
        """Looks at the embedding of each example."""
        for example in examples:
            (embedding,) = embed(example)
            assert math.isclose(math.hypot(*embedding), 1, abs_tol=ROUNDING)
