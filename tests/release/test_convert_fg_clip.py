"""FG-CLIP's layout to ours and back, on the checkpoints that the authors' own code made."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPProcessor

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.data.tokenizers import clip_tokenizer_from_bpe
from beta_clip_hf.model.checkpoints_beta_clip import FG_CLIP_NAMES
from beta_clip_hf.release import directories
from beta_clip_hf.release.convert_fg_clip import convert_back, convert_fg_clip


CASES = ("fg_clip_grid4", "fg_clip_grid6")
TABLE = "text_model.embeddings.position_embedding"
# The rows that their model reads; every other tensor is used whole.
USED_ROWS = {f"{TABLE}_ori.weight": slice(0, 20), f"{TABLE}_res.weight": slice(20, 248)}


@pytest.fixture(scope="module", params=CASES)
def case(request, golden_dir, tmp_path_factory):
    """The authors' directory as it is, ours made from it, and the one made back."""
    folder = tmp_path_factory.mktemp(request.param)
    convert_fg_clip(golden_dir / request.param, folder / "ours")
    convert_back(folder / "ours", folder / "back")
    return golden_dir / request.param, folder / "ours", folder / "back"


@pytest.fixture(scope="module")
def bpe_tokenizer(shared_dir):
    return clip_tokenizer_from_bpe(shared_dir / "data/clip_bpe/bpe_simple_vocab_16e6.txt.gz")


def test_the_round_trip_is_key_for_key_and_bit_for_bit_in_all_used_rows(case):
    theirs, _, back = case
    original, written = load_file(theirs / "checkpoint.safetensors"), load_file(back / "model.safetensors")
    assert len(original) == 99 and written.keys() == original.keys()
    for name, tensor in original.items():
        rows = USED_ROWS.get(name, ...)
        assert torch.equal(written[name][rows], tensor[rows]), name
        assert written[name].dtype == tensor.dtype and written[name].shape == tensor.shape, name
    ori, res = (written[f"{TABLE}_{part}.weight"] for part in ("ori", "res"))
    assert torch.equal(ori, res)  # the halves that are not read are those of the other table
    assert not torch.equal(original[f"{TABLE}_ori.weight"], original[f"{TABLE}_res.weight"])


def test_the_configuration_is_theirs_again(case):
    theirs, _, back = case
    original, written = (json.loads((folder / "config.json").read_text()) for folder in (theirs, back))
    for name in ("architectures", "model_type", "projection_dim", "torch_dtype"):
        assert written[name] == original[name], name
    for tower in ("text_config", "vision_config"):
        for name, value in original[tower].items():
            assert written[tower][name] == value, name
        assert "dtype" not in written[tower]
    assert written["text_config"].get("max_position_embeddings", 77) == 77
    assert not set(written) & (BetaCLIPConfig.__annotations__.keys() - {"model_type"})


def test_the_converted_model_is_the_one_that_is_read_from_their_files(case, tmp_path):
    theirs, ours, back = case
    tensors = load_file(theirs / "tensors.safetensors")
    model = BetaCLIPModel.from_pretrained(ours)
    assert json.loads((ours / "config.json").read_text())["model_type"] == "beta_clip"
    assert model.pooler is None and model.config.use_long_text_path and model.config.use_regions
    with torch.no_grad():
        outputs = {
            "image_features": model.get_image_features(tensors["pixel_values"]).pooler_output,
            "short_text_features": model.get_text_features(tensors["text_short"], path="short").pooler_output,
            "long_text_features": model.get_text_features(tensors["text_long"], path="long").pooler_output,
        }
    for name, features in outputs.items():
        expected = tensors[f"out.{name}"]
        assert (features - expected).abs().max() <= 1e-5 * expected.abs().max(), name
    again, info = BetaCLIPModel.from_pretrained(back, output_loading_info=True)
    assert not any(info.values())
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_second_round_trip_changes_nothing(case, tmp_path):
    _, _, back = case
    convert_fg_clip(back, tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "back")
    assert (tmp_path / "back/config.json").read_text() == (back / "config.json").read_text()
    first, second = (load_file(folder / "model.safetensors") for folder in (back, tmp_path / "back"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_half_precision_goes_both_ways(golden_dir, tmp_path):
    tensors = load_file(golden_dir / CASES[0] / "checkpoint.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    (tmp_path / "half").mkdir()
    shutil.copy(golden_dir / CASES[0] / "config.json", tmp_path / "half")
    save_file(half, tmp_path / "half/model.safetensors", {"format": "pt"})
    assert convert_fg_clip(tmp_path / "half", tmp_path / "ours").dtype == torch.bfloat16
    assert BetaCLIPModel.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16
    convert_back(tmp_path / "ours", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["torch_dtype"] == "bfloat16"
    written = load_file(tmp_path / "back/model.safetensors")
    assert all(
        torch.equal(written[name][USED_ROWS.get(name, ...)], half[name][USED_ROWS.get(name, ...)]) for name in half
    )
    assert BetaCLIPModel.from_pretrained(tmp_path / "back").dtype == torch.bfloat16


def their_directory(golden_dir, folder, change, name="model.safetensors"):
    """A copy of the authors' directory with its tensors changed."""
    folder.mkdir()
    shutil.copy(golden_dir / CASES[0] / "config.json", folder)
    tensors = load_file(golden_dir / CASES[0] / "checkpoint.safetensors")
    change(tensors)
    save_file(tensors, folder / name, {"format": "pt"})
    return folder


def test_any_name_of_the_only_weights_file_is_found(golden_dir, tmp_path):
    folder = their_directory(golden_dir, tmp_path / "a", lambda tensors: None, name="fg_clip_base.safetensors")
    model = convert_fg_clip(folder, tmp_path / "ours")
    expected = load_file(folder / "fg_clip_base.safetensors")["text_filip_projection.weight"]
    assert torch.equal(model.long_text_projection.weight, expected)
    shutil.copy(folder / "fg_clip_base.safetensors", folder / "another.safetensors")
    with pytest.raises(ValueError, match="must hold one of"):
        convert_fg_clip(folder, tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("logit_scale_hardneg"), "must hold .*logit_scale_hardneg"),
        (lambda t: t.pop("vision_model.encoder.layers.2.mlp.fc2.bias"), r"lacks .*layers\.2\.mlp\.fc2\.bias"),
        (lambda t: t.update({"extra.weight": torch.ones(1)}), r"these are not: \['extra\.weight'\]"),
        (lambda t: t.update({f"{TABLE}.weight": torch.ones(64, 24)}), r"must be \(77, 24\), but is \(64, 24\)"),
        (lambda t: t.pop("text_filip_projection.weight"), "must hold .*text_filip_projection"),
        (lambda t: [t.pop(name) for name in FG_CLIP_NAMES], "must be an FG-CLIP checkpoint"),
    ],
)
def test_a_tensor_that_is_missing_unknown_or_of_another_shape_is_named(golden_dir, tmp_path, change, message):
    folder = their_directory(golden_dir, tmp_path / "theirs", change)
    with pytest.raises(ValueError, match=message):
        convert_fg_clip(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_their_layout_has_no_place_for_is_refused(tiny_clip_dir, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "one_path")
    with pytest.raises(ValueError, match=r"must have .*long_position_embedding.* to be written as FG-CLIP"):
        convert_back(tmp_path / "one_path", tmp_path / "out")
    both = {"use_long_text_path": True, "use_regions": True}
    BetaCLIPModel.from_pretrained(tiny_clip_dir, **both).save_pretrained(tmp_path / "pooler")
    with pytest.raises(ValueError, match="must have no pooler"):
        convert_back(tmp_path / "pooler", tmp_path / "out")
    no_regions = {"use_long_text_path": True, "use_pooler": False}
    BetaCLIPModel.from_pretrained(tiny_clip_dir, **no_regions).save_pretrained(tmp_path / "no_regions")
    with pytest.raises(ValueError, match=r"must have .*hard_negative_logit_scale.*region_logit_scale"):
        convert_back(tmp_path / "no_regions", tmp_path / "out")
    shorter = BetaCLIPModel.from_pretrained(tiny_clip_dir, **both, use_pooler=False)
    shorter.config.long_text_max_position_embeddings = 100
    BetaCLIPModel(shorter.config).save_pretrained(tmp_path / "shorter")
    with pytest.raises(ValueError, match=r"positions must be .*248.* but are .*100"):
        convert_back(tmp_path / "shorter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_end_of_text_than_their_codes_is_told(tiny_clip_dir, tmp_path, caplog):
    changes = {"use_long_text_path": True, "use_regions": True, "use_pooler": False}
    BetaCLIPModel.from_pretrained(tiny_clip_dir, **changes).save_pretrained(tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "back")
    assert "ends texts with id 49407 whatever" in caplog.text and "but this model ends them with 513" in caplog.text


@pytest.mark.slow
def test_the_commands_and_the_processor(golden_dir, bpe_tokenizer, tiny_tokenizer, tmp_path, caplog):
    theirs, ours, back = str(golden_dir / CASES[1]), tmp_path / "ours", tmp_path / "back"
    assert main(["convert", "fg-clip", theirs, str(ours)]) == 0
    assert "No processor is saved" in caplog.text and not (ours / "tokenizer.json").exists()
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    assert main(["convert", "fg-clip", theirs, str(ours), "--tokenizer", str(tmp_path / "tiny")]) == 1
    bpe_tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert main(["convert", "fg-clip", theirs, str(ours), "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    processor = BetaCLIPProcessor.from_pretrained(ours)
    assert (processor.max_length, processor.short_max_length) == (248, 77)
    assert processor.image_processor.size == {"height": 48, "width": 48}
    assert not processor.image_processor.do_center_crop

    caplog.clear()
    assert main(["convert", "fg-clip", str(ours), str(back), "--back"]) == 0
    assert "No processor" not in caplog.text and "ends texts" not in caplog.text
    names = {path.name for path in back.iterdir()}
    assert names >= {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}
    assert "BetaCLIP" not in "".join(path.read_text() for path in back.glob("*config.json"))
    again = BetaCLIPProcessor.from_pretrained(back)
    text = ["word " * 500]
    for path, length in (("short", 77), ("long", 248)):
        ids = [reader(text=text, path=path, return_tensors="pt")["input_ids"] for reader in (processor, again)]
        assert torch.equal(*ids) and ids[0].shape == (1, length)


@pytest.mark.slow
def test_their_directory_with_a_tokenizer_needs_no_option(golden_dir, bpe_tokenizer, tmp_path):
    """The files as they publish them: a plain CLIP's image processor, and a configuration that points to their code."""
    theirs = their_directory(golden_dir, tmp_path / "theirs", lambda tensors: None)
    CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32), bpe_tokenizer).save_pretrained(
        theirs
    )
    config = json.loads((theirs / "config.json").read_text())
    for architectures in (["FGCLIPModel"], ["AnotherName"]):
        changed = config | {"architectures": architectures, "auto_map": {"AutoModel": "modeling_fgclip.FGCLIPModel"}}
        (theirs / "config.json").write_text(json.dumps(changed))
        convert_fg_clip(theirs, tmp_path / "ours")
        processor = BetaCLIPProcessor.from_pretrained(tmp_path / "ours")
        assert (processor.max_length, processor.short_max_length) == (248, 77)
        assert processor.image_processor.size == {"height": 32, "width": 32}
        assert not processor.image_processor.do_center_crop
        assert "modeling_fgclip" not in (tmp_path / "ours/config.json").read_text()
    convert_back(tmp_path / "ours", tmp_path / "back", tokenizer=theirs)
    stored = json.loads((tmp_path / "back/preprocessor_config.json").read_text())
    assert stored["size"] == {"height": 32, "width": 32} and not stored["do_center_crop"]


def test_a_failure_leaves_the_old_weights(case, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def save_half(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(directories, "save_file", save_half)
    with pytest.raises(OSError, match="the disk is full"):
        convert_back(case[1], tmp_path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_source_is_not_written_over(case):
    _, ours, back = case
    for convert, folder in ((convert_fg_clip, back), (convert_back, ours)):
        with pytest.raises(ValueError, match="output must be another directory"):
            convert(folder, folder)
