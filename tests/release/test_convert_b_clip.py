"""The converter, and with it the whole model, against numbers of the authors' own code."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from beta_clip_cli.main import main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.release.convert_b_clip import convert_b_clip


CASES = ("b_clip_full_masks", "b_clip_ragged_masks", "b_clip_context_77")
POSITIONS = "text_model.embeddings.position_embedding.weight"


def close(actual, expected):
    return (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture(scope="module", params=CASES)
def golden(request, project_dir, tmp_path_factory):
    """Model, flat inputs, expected numbers and tensors of one case, and the mask of its real texts."""
    case_dir = project_dir / "tests/fixtures" / request.param
    if not case_dir.is_dir():
        case_dir = request.getfixturevalue("golden_dir") / request.param
    expected = json.loads((case_dir / "expected.json").read_text())
    tensors = load_file(case_dir / "tensors.safetensors")
    heads = {"vision_heads": expected["arch"]["vh"], "text_heads": expected["arch"]["th"]}
    directory = tmp_path_factory.mktemp(request.param)
    convert_b_clip(case_dir / "checkpoint.pt", directory, **heads)
    long_ids, phrase_ids = tensors["caption_sentence_ids"], tensors["phrase_ids"]
    ids = torch.cat([long_ids, F.pad(phrase_ids, (0, long_ids.shape[-1] - phrase_ids.shape[-1]))], dim=1)
    kinds = torch.tensor([0] + [1] * (long_ids.shape[1] - 1) + [2] * phrase_ids.shape[1]).expand(ids.shape[:2])
    images = torch.arange(len(ids))[:, None].expand(ids.shape[:2])
    masks = [tensors.get(f"{name}_mask", torch.ones(1)).bool() for name in ("caption_sentence", "phrase")]
    mask = torch.cat([masks[0].expand(long_ids.shape[:2]), masks[1].expand(phrase_ids.shape[:2])], dim=1)
    inputs = {"pixel_values": tensors["pixel_values"], "input_ids": ids[mask]}
    inputs |= {"image_index": images[mask], "granularity": kinds[mask]}
    return BetaCLIPModel.from_pretrained(directory), inputs, expected, tensors, mask


def test_embeddings_patches_and_attention_are_the_authors(golden):
    model, inputs, expected, tensors, mask = golden
    captions = inputs["input_ids"][inputs["granularity"] == 0]
    assert len(inputs["input_ids"]) == expected["batch"]["T"]
    with torch.no_grad():
        outputs = model(**inputs)
        assert close(model.get_image_features(inputs["pixel_values"]).pooler_output, tensors["out.cls_embed"])
        assert close(model.get_text_features(captions).pooler_output, tensors["out.eos_embed"])
        patches = model.get_patch_features(inputs["pixel_values"])
        assert close(patches, tensors["out.patch_embed"])
        assert close(outputs.text_embeds, tensors["out.positive_text_embed"][mask])
        assert close(outputs.contextualized_embeds, F.normalize(tensors["out.positive_image_embed"][mask], dim=-1))
        un_normalised, attention = model.pooler(outputs.text_embeds, patches, inputs["image_index"], True)
        assert close(un_normalised, tensors["out.positive_image_embed"][mask])
        assert close(attention.mean(dim=1), tensors["out.pool_attention"][mask])


def grad_norms(model, arch):
    norms = {name: parameter.grad.double().norm().item() for name, parameter in model.named_parameters()}
    last_block = f"vision_model.encoder.layers.{arch['vd'] - 1}.self_attn"
    positions = dict(model.named_parameters())[POSITIONS].grad
    return {
        "pool_in_proj_weight": math.hypot(*(norms[f"pooler.{letter}_proj.weight"] for letter in "qkv")),
        "pool_mlp_c_fc_weight": norms["pooler.fc1.weight"],
        "pool_logit_scale": norms["pooler.logit_scale"],
        "logit_scale": norms["logit_scale"],
        "image_projection": norms["visual_projection.weight"],
        "text_projection": norms["text_projection.weight"],
        "patch_embed_proj_weight": norms["vision_model.embeddings.patch_embedding.weight"],
        "token_embedding": norms["text_model.embeddings.token_embedding.weight"],
        "vision_last_block_qkv_weight": math.hypot(*(norms[f"{last_block}.{letter}_proj.weight"] for letter in "qkv")),
        "positional_embedding": positions.norm().item(),
        "positional_embedding_res": positions[20:].norm().item(),
    }


def test_losses_and_gradients_are_the_authors_without_padding(golden):
    model, inputs, expected, _, _ = golden
    assert {(entry["kind"], entry["beta"]) for entry in expected["losses"]} >= {("ce", 0.5), ("bce", 0.5)}
    for entry in expected["losses"]:
        model.config.alignment_loss, model.config.beta = entry["kind"], entry["beta"]
        model.zero_grad()
        outputs = model(**inputs, return_loss=True)
        outputs.loss.backward()
        numbers = entry["padding_free"]
        assert outputs.losses["clip_loss"].item() == pytest.approx(numbers["clip_loss"], rel=1e-5)
        assert outputs.losses["beta_cal_loss"].item() == pytest.approx(numbers["beta_cal"], rel=1e-5)
        assert outputs.loss.item() == pytest.approx(numbers["total"], rel=1e-5)
        norms = grad_norms(model, expected["arch"])
        for name, norm in numbers["grad_norm"].items():
            assert norms[name] == pytest.approx(norm, rel=1e-4), (entry["kind"], entry["beta"], name)


def test_positions_stay_as_many_as_they_were(golden):
    model, _, expected, _, _ = golden
    context = expected["arch"]["context"]
    assert model.config.text_config.max_position_embeddings == context
    assert model.text_model.embeddings.position_embedding.weight.shape[0] == context


@pytest.fixture
def checkpoint(project_dir):
    return project_dir / "tests/fixtures/b_clip_full_masks/checkpoint.pt"


def saved(checkpoint, path, change):
    """A copy of the checkpoint with its tensors changed."""
    contents = torch.load(checkpoint, weights_only=True)
    change(contents["state_dict"])
    torch.save(contents, path)
    return path


def test_a_missing_or_unknown_key_is_named(checkpoint, tmp_path):
    heads = {"vision_heads": 4, "text_heads": 4}
    path = saved(checkpoint, tmp_path / "a.pt", lambda tensors: tensors.pop("module.visual.blocks.1.mlp.fc2.bias"))
    with pytest.raises(ValueError, match=r"visual\.blocks\.1\.mlp\.fc2\.bias"):
        convert_b_clip(path, tmp_path / "out", **heads)
    path = saved(checkpoint, tmp_path / "b.pt", lambda tensors: tensors.update({"module.extra.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"extra\.weight"):
        convert_b_clip(path, tmp_path / "out", **heads)
    assert not (tmp_path / "out").exists()


def test_keys_without_the_prefix_are_the_same_checkpoint(checkpoint, tmp_path):
    def strip(tensors):
        tensors.update({name.removeprefix("module."): tensors.pop(name) for name in list(tensors)})

    heads = {"vision_heads": 4, "text_heads": 4}
    plain = convert_b_clip(saved(checkpoint, tmp_path / "c.pt", strip), tmp_path / "plain", **heads).state_dict()
    prefixed = convert_b_clip(checkpoint, tmp_path / "prefixed", **heads).state_dict()
    assert plain.keys() == prefixed.keys()
    assert all(torch.equal(plain[name], prefixed[name]) for name in plain)


def test_heads_must_divide_the_width(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"vision_heads must divide .*48.* but is None"):
        convert_b_clip(checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match=r"text_heads must divide .*40.* but is 7"):
        convert_b_clip(checkpoint, tmp_path / "out", vision_heads=4, text_heads=7)


def test_a_file_that_executes_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="of tensors only"):
        convert_b_clip(tmp_path / "evil.pt", tmp_path / "out")


def test_the_command_writes_safetensors_and_a_processor(checkpoint, tiny_tokenizer, tmp_path, caplog):
    heads = ["--vision-heads", "4", "--text-heads", "4"]
    arguments = ["convert", "b-clip", str(checkpoint), str(tmp_path / "out"), *heads]
    assert main(arguments) == 0
    assert "No processor was saved" in caplog.text
    assert (tmp_path / "out/model.safetensors").is_file()
    assert not (tmp_path / "out/tokenizer.json").exists()

    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert main([*arguments, "--tokenizer", str(tmp_path / "tokenizer")]) != 0  # 514 ids for a checkpoint of 300

    def widen(tensors):
        tensors["module.token_embedding.weight"] = torch.randn(len(tiny_tokenizer), 40)

    arguments[2] = str(saved(checkpoint, tmp_path / "wide.pt", widen))
    assert main([*arguments, "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    processor = BetaCLIPProcessor.from_pretrained(tmp_path / "out")
    model = BetaCLIPModel.from_pretrained(tmp_path / "out")
    assert processor.max_length == 248
    assert model.config.text_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.get_text_features(**processor(text=["a red ball"], return_tensors="pt")).pooler_output.shape == (1, 32)
