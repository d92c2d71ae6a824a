"""FG-CLIP 2's layout to ours and back, on the checkpoints that the authors' own code made."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from beta_clip_cli.main import main
from beta_clip_hf import BetaSiglip2Model, BetaSiglip2Processor
from beta_clip_hf.release.convert_fg_clip2 import convert_fg_clip2, convert_fg_clip2_back
from model.fg_clip2_cases import word_tokenizer


CASES = ("fg_clip2_patch4", "fg_clip2_patch8")
TABLE = "text_model.embeddings.position_embedding"
# The rows that their model reads; every other tensor is used whole.
USED_ROWS = {f"{TABLE}_ori.weight": slice(0, 20), f"{TABLE}_res.weight": slice(20, 196)}


@pytest.fixture(scope="module", params=CASES)
def case(request, golden_dir, tmp_path_factory):
    """The authors' directory as it is, ours made from it, and the one made back."""
    folder = tmp_path_factory.mktemp(request.param)
    convert_fg_clip2(golden_dir / request.param, folder / "ours")
    convert_fg_clip2_back(folder / "ours", folder / "back")
    return golden_dir / request.param, folder / "ours", folder / "back"


def their_directory(source, folder, change):
    """Writes their checkpoint with a change of its tensors."""
    folder.mkdir()
    tensors = load_file(source / "checkpoint.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(source / "config.json", folder / "config.json")
    return folder


def test_the_round_trip_is_key_for_key_and_bit_for_bit_in_all_used_rows(case):
    theirs, _, back = case
    original, written = load_file(theirs / "checkpoint.safetensors"), load_file(back / "model.safetensors")
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        rows = USED_ROWS.get(name, ...)
        assert torch.equal(written[name][rows], tensor[rows]), name
        assert written[name].dtype == tensor.dtype and written[name].shape == tensor.shape, name


def test_the_configuration_is_theirs_again(case):
    theirs, _, back = case
    original, written = (json.loads((folder / "config.json").read_text()) for folder in (theirs, back))
    del original["transformers_version"]
    assert written.pop("torch_dtype") == "float32"
    assert written == {name: value for name, value in original.items() if name not in ("dtype", "torch_dtype")}


def test_the_converted_model_is_the_one_that_is_read_from_their_files(case):
    theirs, ours, back = case
    tensors = load_file(theirs / "tensors.safetensors")
    expected = BetaSiglip2Model.from_pretrained(theirs)
    assert json.loads((ours / "config.json").read_text())["model_type"] == "beta_siglip2"
    for folder in (ours, back):
        model, info = BetaSiglip2Model.from_pretrained(folder, output_loading_info=True)
        assert info["missing_keys"] <= {"rank_loss.threshold"} and not info["unexpected_keys"]
        for name, tensor in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
        assert model.config.use_regions == expected.config.use_regions
        with torch.no_grad():
            texts = model.get_text_features(tensors["text_long"], path="long").pooler_output
        assert (texts - tensors["out.long_text_features"]).abs().max() <= 1e-5 * texts.abs().max()
    assert type(AutoModel.from_pretrained(ours)) is BetaSiglip2Model


def test_the_processor_comes_along(golden_dir, tmp_path):
    theirs = their_directory(golden_dir / CASES[0], tmp_path / "theirs", lambda tensors: None)
    options = {"image_processor_type": "TheirImageProcessor", "auto_map": {"AutoImageProcessor": "theirs.Theirs"}}
    (theirs / "preprocessor_config.json").write_text(json.dumps({**options, "patch_size": 4}))
    word_tokenizer().save_pretrained(theirs)
    convert_fg_clip2(theirs, tmp_path / "ours")
    convert_fg_clip2_back(tmp_path / "ours", tmp_path / "back")
    image = Image.new("RGB", (90, 60), "red")
    expected = BetaSiglip2Processor.from_pretrained(theirs)(images=image, text="a dog", path="long")
    for folder in ("ours", "back"):
        processor = BetaSiglip2Processor.from_pretrained(tmp_path / folder)
        assert processor.dynamic_max_patches
        found = processor(images=image, text="a dog", path="long")
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


def test_tensors_that_do_not_fit_are_named(golden_dir, tmp_path):
    source = golden_dir / CASES[0]
    extra = their_directory(source, tmp_path / "extra", lambda tensors: tensors.update(other=torch.zeros(1)))
    with pytest.raises(ValueError, match=r"every tensor of the checkpoint must be known, .* \['other'\]"):
        convert_fg_clip2(extra, tmp_path / "ours")
    lacking = their_directory(source, tmp_path / "lacking", lambda tensors: tensors.pop("boxtext_head.bias"))
    with pytest.raises(ValueError, match=r"lacks box_text_head\.bias"):
        convert_fg_clip2(lacking, tmp_path / "ours")
    table = f"{TABLE}_res.weight"
    lacking = their_directory(source, tmp_path / "no_table", lambda tensors: tensors.pop(table))
    with pytest.raises(ValueError, match=r"must hold \['text_model.*position_embedding_res.weight'\]"):
        convert_fg_clip2(lacking, tmp_path / "ours")
    with pytest.raises(ValueError, match="output must be another directory"):
        convert_fg_clip2(extra, extra)


def test_other_models_are_refused(golden_dir, tiny_clip_dir, tmp_path):
    with pytest.raises(ValueError, match=r"must be an FG-CLIP 2 checkpoint \('fgclip2'\), but .* is 'clip'"):
        convert_fg_clip2(tiny_clip_dir, tmp_path / "ours")
    model = BetaSiglip2Model.from_pretrained(golden_dir / CASES[0])
    values = model.config.to_dict()
    config = type(model.config)(
        text_config={**values["text_config"], "max_position_embeddings": 16}, vision_config=values["vision_config"]
    )
    BetaSiglip2Model(config).save_pretrained(tmp_path / "short")
    with pytest.raises(ValueError, match=r"positions must be .* to be written as FG-CLIP 2, but are {'short': 16"):
        convert_fg_clip2_back(tmp_path / "short", tmp_path / "back")


def test_the_threshold_of_a_run_is_left_out(golden_dir, tmp_path):
    model = BetaSiglip2Model.from_pretrained(golden_dir / CASES[0])
    model.rank_loss.threshold.fill_(2.5)
    model.save_pretrained(tmp_path / "run")
    assert BetaSiglip2Model.from_pretrained(tmp_path / "run").rank_loss.threshold.item() == 2.5
    convert_fg_clip2_back(tmp_path / "run", tmp_path / "back")
    assert (
        load_file(tmp_path / "back/model.safetensors").keys()
        == load_file(golden_dir / CASES[0] / "checkpoint.safetensors").keys()
    )


def test_the_command(golden_dir, tmp_path, capsys):
    theirs, ours, back = str(golden_dir / CASES[0]), str(tmp_path / "ours"), str(tmp_path / "back")
    assert main(["convert", "fg-clip2", theirs, ours, "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    # With the code that the model needs.
    assert {"config.json", "model.safetensors", "modeling_beta_siglip2.py"} <= set(files)
    assert main(["convert", "fg-clip2", ours, back, "--back"]) == 0
    assert (
        load_file(tmp_path / "back/model.safetensors").keys()
        == load_file(golden_dir / CASES[0] / "checkpoint.safetensors").keys()
    )
    assert main(["convert", "fg-clip2", ours, back]) == 1
