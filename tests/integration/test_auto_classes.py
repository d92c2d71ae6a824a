"""A process that has not imported the package gets model and processor from every directory that the library writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPModel, CLIPProcessor, Siglip2ImageProcessorPil

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor, BetaSiglip2Config, BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.data.scenes.pretrained import pretrained
from model.fg_clip2_cases import word_tokenizer
from training.tiny_runs import new_trainer
from without_package import run_without_package


pytestmark = pytest.mark.slow

# Prints for each directory the classes that are found, or the first words of the error.
LOADER = """
import json, sys
from transformers import AutoModel, AutoProcessor
options = json.loads(sys.argv[1])
found = {}
for folder in sys.argv[2:]:
    found[folder] = []
    for cls in (AutoModel, AutoProcessor):
        try:
            found[folder].append(type(cls.from_pretrained(folder, **options)).__name__)
        except Exception as error:
            found[folder].append(str(error))
print("FOUND" + json.dumps(found))
"""


def found_in(done):
    (line,) = [line for line in done.stdout.splitlines() if "FOUND" in line] or [done.stderr]
    return json.loads(line.partition("FOUND")[2])


def fresh(folders, project_dir, **options):
    """What a process finds in which the package is installed, but not imported."""
    command = [sys.executable, "-c", LOADER, json.dumps(options), *map(str, folders)]
    variables = {**os.environ, "PYTHONPATH": str(project_dir / "src"), "HF_HUB_OFFLINE": "1"}
    return found_in(subprocess.run(command, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL))


def test_every_directory_loads_in_a_fresh_process(
    tiny_config, tiny_processor, tiny_model, tiny_clip_dir, tmp_path, project_dir
):
    trainer = new_trainer(tiny_config, tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=1)
    trainer.processing_class = tiny_processor
    trainer.train()
    trainer.save_model()
    tiny_model.save_pretrained(tmp_path / "saved")
    tiny_processor.save_pretrained(tmp_path / "saved")
    # What was loaded is saved with its code, too.
    BetaCLIPModel.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    BetaCLIPProcessor.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    assert main(["interpolate", *(str(tmp_path / name) for name in ("saved", "again", "between"))]) == 0
    ours = [tmp_path / name for name in ("run", "run/checkpoint-1", "run/checkpoint-2", "saved", "again", "between")]
    folders = [*ours, Path(pretrained("beta_clip"))]
    found = fresh(folders, project_dir, trust_remote_code=True)
    assert found == {str(folder): ["BetaCLIPModel", "BetaCLIPProcessor"] for folder in folders}
    # Without trust both say how it is given, and never that transformers is too old, nor is it a tokenizer.
    for folder, (model, processor) in fresh(folders, project_dir).items():
        for told in (model, processor):
            assert "contains custom code" in told and "trust_remote_code=True" in told, (folder, told)
    # The code is there, so even the package is not needed.
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    words = [json.dumps({"trust_remote_code": True}), *map(str, ours)]
    assert found_in(run_without_package(LOADER, tmp_path, *words, **environment)) == {
        str(folder): ["BetaCLIPModel", "BetaCLIPProcessor"] for folder in ours
    }
    # What is exported as a plain CLIP is one, although its source has code.
    assert main(["export", "clip", str(tmp_path / "saved"), str(tmp_path / "plain")]) == 0
    assert (
        not list((tmp_path / "plain").glob("*.py")) and "auto_map" not in (tmp_path / "plain/config.json").read_text()
    )
    assert isinstance(CLIPModel.from_pretrained(tmp_path / "plain"), CLIPModel)
    assert "auto_map" not in (tmp_path / "plain/processor_config.json").read_text()
    assert isinstance(CLIPProcessor.from_pretrained(tmp_path / "plain"), CLIPProcessor)


def test_a_model_alone_and_a_processor_alone(tiny_model, tiny_processor, tmp_path, project_dir):
    config, image_processor = dict(vars(tiny_model.config)), dict(vars(tiny_processor.image_processor))
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "processor")
    # Saving leaves no trace in what was saved.
    assert vars(tiny_model.config).keys() == config.keys()
    assert vars(tiny_processor.image_processor).keys() == image_processor.keys() and "auto_map" not in vars(
        tiny_processor
    )
    assert BetaCLIPModel._auto_class is None and BetaCLIPProcessor._auto_class is None
    found = fresh([tmp_path / "model", tmp_path / "processor"], project_dir, trust_remote_code=True)
    assert found[str(tmp_path / "model")][0] == "BetaCLIPModel"
    assert found[str(tmp_path / "processor")][1] == "BetaCLIPProcessor"
    # The parts of a loaded processor do not name its code.
    loaded = BetaCLIPProcessor.from_pretrained(tmp_path / "processor")
    loaded.tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded.image_processor.save_pretrained(tmp_path / "tokenizer")
    assert not any("auto_map" in path.read_text() for path in (tmp_path / "tokenizer").glob("*config.json"))
    assert not hasattr(BetaCLIPModel.from_pretrained(tmp_path / "model").config, "auto_map")


def test_beta_siglip2(tmp_path, project_dir):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**tower, "vocab_size": 10, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    vision = {**tower, "patch_size": 4, "num_patches": 16}
    BetaSiglip2Model(BetaSiglip2Config(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "model")
    processor = BetaSiglip2Processor(Siglip2ImageProcessorPil(patch_size=4), word_tokenizer())
    processor.save_pretrained(tmp_path / "model")
    found = fresh([tmp_path / "model"], project_dir, trust_remote_code=True)
    assert found == {str(tmp_path / "model"): ["BetaSiglip2Model", "BetaSiglip2Processor"]}
    for told in fresh([tmp_path / "model"], project_dir)[str(tmp_path / "model")]:
        assert "trust_remote_code=True" in told


class OwnModel(BetaCLIPModel):
    """A user's own class, whose code transformers would not find beside ours."""


def test_a_class_of_the_user_is_saved_as_transformers_does(tiny_config, tmp_path):
    OwnModel(tiny_config).save_pretrained(tmp_path / "own")
    assert not list((tmp_path / "own").glob("*.py")) or "auto_map" in (tmp_path / "own/config.json").read_text()
    assert "OwnModel" not in json.dumps(json.loads((tmp_path / "own/config.json").read_text()).get("auto_map", {}))
