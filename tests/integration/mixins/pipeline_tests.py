"""transformers' own tests of pipelines, as those of every kind of towers run them."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from integration.mixins import pipeline_checks, source


# The file of tests reads which tokenizer and image processor a tiny model has, as soon as it is imported.
TINY_MODELS = Path(__file__).parent / "tiny_models"
with patch.dict(os.environ, TRANSFORMERS_TINY_MODEL_PATH=str(TINY_MODELS)):
    pipelines = source.load("test_pipeline_mixin")

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

    # Subclasses name them, and `save`, which writes the model and its processor into a directory.
    model_class: type
    inputs_class: type
    save: Callable[[Path], None]

    def setUp(self):
        self.pipeline_model_mapping = dict.fromkeys(CHECKS, self.model_class)
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.save(Path(folder) / self.model_class.config_class.model_type / self.model_class.__name__)
        self.enterContext(patch.object(pipelines, "TRANSFORMERS_TINY_MODEL_PATH", folder))
        self.enterContext(patch.object(pipelines, "pipeline_test_mapping", checks_by_task()))
        # It compares transformers' own pipelines with the Hub's description of their arguments.
        self.enterContext(patch.object(pipelines, "task_to_pipeline_and_spec_mapping", {}))


def sizes_of(inputs_class: type, tokenizer: Any) -> dict[str, Any]:
    """Returns the configuration of the inputs as a dict, with the words of a tokenizer."""
    sizes = inputs_class().get_config().to_dict()
    sizes["text_config"] |= {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    return sizes


# The mixin has two tests for each task of transformers. Those of other tasks would be skipped one by one.
for name in dir(PipelineTests):
    if name.startswith("test_pipeline_"):
        task = name.removeprefix("test_pipeline_").removesuffix("_fp16").replace("_", "-")
        if task not in CHECKS:
            setattr(PipelineTests, name, None)
