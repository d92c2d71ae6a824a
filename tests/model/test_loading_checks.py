"""Every kind of directory: nothing starts at random but what is new, and a damaged directory is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, SiglipConfig, SiglipModel

import reference
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.inference.models import load_model
from beta_clip_hf.model.checkpoints_beta_clip import to_fg_clip
from beta_clip_hf.model.positions_beta_clip import stretch_table, stretch_text_positions
from beta_clip_hf.release.directories import save_clip_processor


POSITIONS = "text_model.embeddings.position_embedding.weight"
LONG_POSITIONS = "text_model.embeddings.long_position_embedding.weight"
KINDS = ["CLIP", "Long-CLIP", "β-CLIP", "two paths", "FG-CLIP"]


@pytest.fixture
def save(tmp_path, tiny_clip_config, tiny_config, both_systems_config, tiny_processor):
    """Saves a directory of a kind and returns it; a CLIP may have another number of text positions."""

    def save_clip(folder, positions):
        config = type(tiny_clip_config)(**tiny_clip_config.to_dict())
        config.text_config.max_position_embeddings = positions
        CLIPModel(config).save_pretrained(folder)
        save_clip_processor(tiny_processor, folder, positions)

    def save_fg_clip(folder):
        save_clip(folder, 77)
        values = both_systems_config.to_dict() | {"use_pooler": False}
        model = BetaCLIPModel(BetaCLIPConfig(**values))
        save_file(to_fg_clip(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | {"architectures": ["FGCLIPModel"]}))

    def save_kind(kind, positions=77):
        folder = tmp_path / kind.replace(" ", "_")
        torch.manual_seed(7)
        if kind == "CLIP":
            save_clip(folder, positions)
        elif kind == "Long-CLIP":
            save_clip(folder, 248)
        elif kind == "FG-CLIP":
            save_fg_clip(folder)
        else:
            config = tiny_config if kind == "β-CLIP" else both_systems_config
            BetaCLIPModel(config).save_pretrained(folder)
            tiny_processor.save_pretrained(folder)
        return folder

    return save_kind


def load_with_seed(folder, seed, **options):
    torch.manual_seed(seed)
    return BetaCLIPModel.from_pretrained(folder, **options).state_dict()


def random_tensors(folder, **options):
    """The names of the tensors that the generator of random numbers decides."""
    first, second = load_with_seed(folder, 1, **options), load_with_seed(folder, 2, **options)
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def change(folder, edit):
    """Edits the tensors of a directory in place."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_pooler": False},
        {"use_long_text_path": True},
        {"use_long_text_path": True, "use_regions": True, "use_pooler": True, "pooler_qkv_layer_norm": True},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_only_new_parts_start_at_random(save, kind, options):
    folder = save(kind)
    if kind in ("β-CLIP", "two paths"):
        # A model of ours is loaded as it is.
        options = {}
    names = random_tensors(folder, **options)
    model = BetaCLIPModel.from_pretrained(folder, **options)
    is_new = kind not in ("β-CLIP", "two paths") and model.pooler is not None
    if not is_new:
        assert names == set()
    else:
        assert names and all(name.startswith("pooler.") for name in names)
        # Its norms and its scale start from constants, and all else at random.
        assert {
            name for name in model.state_dict() if name.startswith("pooler.") and model.state_dict()[name].ndim == 2
        } <= names
    stored = load_file(folder / "model.safetensors")
    for name in stored.keys() & model.state_dict().keys() - {POSITIONS}:
        assert torch.equal(model.state_dict()[name], stored[name]), name


@pytest.mark.parametrize("name", [
    "logit_scale", "text_projection.weight", "visual_projection.weight", POSITIONS,
    "vision_model.embeddings.class_embedding", "vision_model.encoder.layers.1.self_attn.v_proj.bias",
    "text_model.final_layer_norm.weight",
])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_tensor_of_the_towers_is_named(save, kind, name):
    folder = save(kind)
    change(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(
        ValueError, match=rf"must have all tensors of BetaCLIPModel, but .* lacks {name}: copy"
    ) as error:
        BetaCLIPModel.from_pretrained(folder)
    assert str(folder) in str(error.value)
    if kind in ("CLIP", "Long-CLIP"):
        with pytest.raises(ValueError, match=f"must have all tensors of CLIPModel, but .* lacks {name}"):
            load_model(str(folder), torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("β-CLIP", "pooler.q_proj.weight"),
        ("β-CLIP", "pooler.logit_scale"),
        ("two paths", LONG_POSITIONS),
        ("two paths", "long_text_projection.weight"),
        ("two paths", "region_logit_scale"),
    ],
)
def test_what_the_config_of_a_model_of_ours_names_must_be_there(save, kind, name):
    folder = save(kind)
    change(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=f"lacks {name}"):
        BetaCLIPModel.from_pretrained(folder)


def test_a_part_may_be_missing_as_a_whole_only(save):
    folder = save("β-CLIP")
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stored | {"use_pooler": False}))
    with pytest.raises(ValueError, match=r"lacks pooler\.fc1\.bias: copy"):
        change(folder, lambda tensors: tensors.pop("pooler.fc1.bias"))
        BetaCLIPModel.from_pretrained(folder, use_pooler=True)
    change(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("pooler.")])
    assert all(name.startswith("pooler.") for name in random_tensors(folder, use_pooler=True))
    assert random_tensors(folder) == set()


def test_a_whole_tower_that_is_missing_is_counted(save):
    folder = save("CLIP")
    change(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("vision_model.")])
    with pytest.raises(ValueError, match=r"lacks vision_model\.\S*, vision_\S*, vision_\S* and \d\d more: copy"):
        BetaCLIPModel.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_another_shape_is_named(save, kind):
    folder = save(kind)
    name = "text_model.encoder.layers.0.mlp.fc1.bias"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(3)}))
    with pytest.raises(ValueError, match=rf"but .* has {name} of \(3,\) instead of \(64,\): mend its config.json"):
        BetaCLIPModel.from_pretrained(folder)
    if kind == "CLIP":
        with pytest.raises(ValueError, match=rf"has {name} of \(3,\) instead of \(64,\)"):
            load_model(str(folder), torch.device("cpu"))
    # Who asks for it gets it, as with transformers.
    assert name in random_tensors(folder, ignore_mismatched_sizes=True) | {name}


def test_other_models_are_named(save, tmp_path, tiny_clip_dir):
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=tower | {"vocab_size": 50}, vision_config=tower | {"image_size": 32, "patch_size": 16}
    )
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    CLIPTextModel.from_pretrained(tiny_clip_dir).save_pretrained(tmp_path / "text_only")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    for folder, words in [
        ("siglip", r"is SiglipModel \(model_type 'siglip'\)"),
        ("text_only", r"is CLIPTextModel \(model_type 'clip_text_model'\)"),
        ("empty", "has no config.json with a model_type: check the path"),
        (".", "has no config.json with a model_type: check the path"),
    ]:
        with pytest.raises(ValueError, match=rf"a BetaCLIPModel must be loaded from a checkpoint of β-CLIP .* {words}"):
            BetaCLIPModel.from_pretrained(tmp_path / folder)
    # Evaluation and search take SigLIP.
    with pytest.raises(ValueError, match="must have features of images and of texts, but is CLIPTextModel: name"):
        load_model(str(tmp_path / "text_only"), torch.device("cpu"))


@pytest.mark.parametrize("positions", [16, 64, 77, 248, 512])
def test_any_number_of_text_positions(save, positions):
    folder = save("CLIP", positions)
    stored = load_file(folder / "model.safetensors")[POSITIONS]
    model = BetaCLIPModel.from_pretrained(folder, use_pooler=False).eval()
    rows = 248 if positions == 77 else positions
    assert len(model.state_dict()[POSITIONS]) == model.config.text_config.max_position_embeddings == rows
    if positions != 77:
        assert torch.equal(model.state_dict()[POSITIONS], stored)
    # The processor beside it cuts to what the model has, and keeps EOS.
    processor = BetaCLIPProcessor.from_pretrained(folder)
    assert processor.max_length == min(rows, 248)
    inputs = processor(text=["word " * 600, "a dog"], padding=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == min(rows, 248)
    assert model.get_text_features(**inputs).pooler_output.isfinite().all()
    assert model.encode(texts=["word " * 600]).isfinite().all()

    two_paths = BetaCLIPModel.from_pretrained(folder, use_pooler=False, use_long_text_path=True).eval()
    tensors = two_paths.state_dict()
    assert torch.equal(tensors[POSITIONS], stored)
    assert len(tensors[LONG_POSITIONS]) == two_paths.config.long_text_max_position_embeddings == max(248, positions)
    assert torch.equal(tensors[LONG_POSITIONS], stretch_table(stored, max(248, positions)))
    lengths = {"max_length": max(248, positions), "short_max_length": positions}
    processor = BetaCLIPProcessor.from_pretrained(folder, **lengths)
    for path, length in (("short", positions), ("long", max(248, positions))):
        inputs = processor(text=["word " * 600], path=path, return_tensors="pt")
        assert inputs["input_ids"].shape[1] == length
        assert two_paths.get_text_features(**inputs, path=path).pooler_output.isfinite().all()


@pytest.mark.parametrize("rows", [1, 2, 16, 64, 77, 100, 247, 248, 512])
def test_tables_of_any_length_are_stretched(rows):
    table = torch.randn(rows, 5)
    for length in (248, 300):
        stretched = stretch_table(table, length)
        assert stretched.shape == (length, 5) if rows < length else (rows, 5)
        if rows >= length:
            assert torch.equal(stretched, table[:length])
            continue
        kept = round(rows * 20 / 77)
        assert torch.equal(stretched[:kept], table[:kept])
        for row in range(kept, length):
            place = kept + (row - kept) * (rows - kept) / (length - kept)
            left = min(int(place + 1e-9), rows - 1)
            if left == rows - 1:
                expected = table[-1] + (place - left) * (table[-1] - table[max(0, rows - 2)])
            else:
                expected = table[left] + (place - left) * (table[left + 1] - table[left])
            torch.testing.assert_close(stretched[row], expected)
    if rows == 77:
        torch.testing.assert_close(stretch_text_positions(table).double(), reference.stretch_text_positions(table))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [{}, {"use_regions": True}, {"use_regions": True, "use_long_text_path": True}])
def test_every_new_part_is_started(save, kind, parts, nan_in_new_memory):
    model = BetaCLIPModel.from_pretrained(save(kind), use_pooler=True, **parts)
    assert [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()] == []
    if parts and kind in ("CLIP", "Long-CLIP"):
        assert model.region_logit_scale == model.logit_scale == model.hard_negative_logit_scale
