import pytest
import torch
from transformers import AutoModel, CLIPModel

import reference
from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, beta_cal_loss, clip_loss
from beta_clip_hf.model.positions_beta_clip import stretch_text_positions
from model.checkpointing import enable_checkpointing


POSITIONS = "text_model.embeddings.position_embedding.weight"
END = 513
IMAGE_INDEX = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
GRANULARITY = torch.tensor([0, 1, 2, 2, 0, 2, 0, 1, 2])
LENGTHS = [40, 21, 4, 9, 12, 3, 60, 60, 5]


def texts(lengths, seed=0):
    """Right-padded ids `(T, L)`: start, random words, end; behind the end is noise that no text may notice."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 500, (len(lengths), max(lengths)), generator=generator)
    ids[:, 0] = END - 1
    ids[range(len(lengths)), [length - 1 for length in lengths]] = END
    return ids


@pytest.fixture
def pixel_values():
    return torch.randn(3, 3, 32, 32)


@pytest.fixture
def batch(pixel_values):
    return {
        "pixel_values": pixel_values,
        "input_ids": texts(LENGTHS),
        "image_index": IMAGE_INDEX,
        "granularity": GRANULARITY,
    }


def test_stretched_positions_are_the_formula_row_by_row():
    table = torch.randn(77, 5)
    torch.testing.assert_close(stretch_text_positions(table).double(), reference.stretch_text_positions(table))
    assert torch.equal(stretch_text_positions(table)[:20], table[:20])
    assert torch.equal(stretch_text_positions(table)[20::4][:57], table[20:])
    assert stretch_text_positions(table.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="must have 77 rows, but has 248"):
        stretch_text_positions(torch.randn(248, 5))


def test_stretched_positions_equal_the_authors(golden_dir):
    from safetensors.torch import load_file

    tensors = load_file(golden_dir / "fg_clip_grid4/tensors.safetensors")
    stretched = stretch_text_positions(tensors["stretch.position_embedding_77"])
    torch.testing.assert_close(stretched, tensors["stretch.position_embedding_248"], rtol=0, atol=2e-7)


def test_a_plain_clip_directory_is_stretched_and_otherwise_bit_equal(tiny_clip_dir):
    clip = CLIPModel.from_pretrained(tiny_clip_dir).state_dict()
    model, info = BetaCLIPModel.from_pretrained(tiny_clip_dir, output_loading_info=True)
    assert all(name.startswith("pooler.") for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    state_dict = model.state_dict()
    assert {name for name in state_dict if not name.startswith("pooler.")} == set(clip)
    assert all(torch.equal(state_dict[name], clip[name]) for name in clip if name != POSITIONS)
    assert torch.equal(state_dict[POSITIONS], stretch_text_positions(clip[POSITIONS]))
    assert model.config.text_config.max_position_embeddings == 248
    assert model.config.model_type == "beta_clip"
    assert model.get_text_features(texts([248, 100])).pooler_output.shape == (2, 32)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.pooler.q_proj.weight.std() > 0.01
    assert model.pooler.logit_scale.item() == pytest.approx(2.6592)


def test_configuration_values_may_be_given_when_a_plain_clip_is_loaded(tiny_clip_dir):
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, beta=0.25, alignment_loss="bce", dtype=torch.bfloat16)
    assert (model.config.beta, model.config.alignment_loss) == (0.25, "bce")
    assert model.dtype == torch.bfloat16
    assert len(model.get_parameter(POSITIONS)) == 248
    assert BetaCLIPModel.from_pretrained(tiny_clip_dir, use_pooler=False).pooler is None
    config = BetaCLIPConfig.from_pretrained(tiny_clip_dir, beta=0.75)
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, config=config)
    assert (model.config.beta, len(model.get_parameter(POSITIONS))) == (0.75, 248)
    assert config.text_config.max_position_embeddings == 77  # the caller's object is left alone


@pytest.mark.parametrize("positions", [77, 248])
def test_save_and_load_is_bit_equal_and_never_stretches(tiny_config, tmp_path, positions):
    tiny_config.text_config.max_position_embeddings = positions
    model = BetaCLIPModel(tiny_config)
    model.save_pretrained(tmp_path)
    for loaded in (BetaCLIPModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is BetaCLIPModel
        state_dict = loaded.state_dict()
        assert state_dict.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, state_dict[name]) for name, tensor in model.state_dict().items())
        assert loaded.config.text_config.max_position_embeddings == positions


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_image_index_is_clip_bit_for_bit(tiny_clip_dir, pixel_values, implementation, dtype):
    options = {"attn_implementation": implementation, "dtype": dtype}
    clip = CLIPModel.from_pretrained(tiny_clip_dir, **options).eval()
    model = BetaCLIPModel.from_pretrained(tiny_clip_dir, **options).eval()
    ids = texts([15, 20, 7])
    mask = torch.arange(20)[None] < torch.tensor([[15], [20], [7]])
    for inputs in (
        {"input_ids": ids, "attention_mask": mask.long(), "return_loss": True},
        {"input_ids": ids, "attention_mask": mask.long(), "output_hidden_states": True},
        {"input_ids": texts([5] * 7), "attention_mask": None},  # as many texts as one likes
    ):
        expected, outputs = clip(pixel_values=pixel_values, **inputs), model(pixel_values=pixel_values, **inputs)
        for name in ("loss", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
            value, ours = getattr(expected, name), getattr(outputs, name)
            assert (value is None) == (ours is None)
            assert value is None or torch.equal(value, ours), name
        hidden = expected.vision_model_output.hidden_states
        assert (hidden is None) == ("output_hidden_states" not in inputs)
        for a, b in zip(hidden or (), outputs.vision_model_output.hidden_states or (), strict=True):
            assert torch.equal(a, b)
    assert isinstance(model(ids, pixel_values, return_dict=False), tuple)


def test_a_plain_batch_has_a_loss_only_in_pairs(tiny_model, pixel_values):
    outputs = tiny_model(input_ids=texts([5, 6, 7]), pixel_values=pixel_values, return_loss=True)
    assert outputs.losses["clip_loss"] == outputs.loss > 0
    with pytest.raises(ValueError, match="as many texts as images, but there are 4 texts and 3 images"):
        tiny_model(input_ids=texts([5, 6, 7, 8]), pixel_values=pixel_values, return_loss=True)


def test_a_flat_batch_has_clips_embeddings_and_the_slow_poolers(tiny_model, batch):
    tiny_model.double()
    batch["pixel_values"] = batch["pixel_values"].double()
    outputs = tiny_model(**batch)
    patches = tiny_model.get_patch_features(batch["pixel_values"])
    images = tiny_model.get_image_features(batch["pixel_values"], output_hidden_states=True)
    text_features = tiny_model.get_text_features(batch["input_ids"]).pooler_output
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(outputs.image_embeds, reference.unit(images.pooler_output), **close)
    torch.testing.assert_close(outputs.text_embeds, reference.unit(text_features), **close)
    torch.testing.assert_close(patches, reference.patch_features(tiny_model, images.hidden_states[-2]), **close)
    assert patches.shape == (3, 16, 32)
    for text, image in enumerate(IMAGE_INDEX):
        pooled, _ = reference.pooled(tiny_model.pooler, text_features[text], patches[image])
        torch.testing.assert_close(outputs.contextualized_embeds[text], reference.unit(pooled), **close)
    similarity = outputs.image_embeds @ outputs.text_embeds.T
    torch.testing.assert_close(outputs.logits_per_image, tiny_model.logit_scale.exp() * similarity, **close)
    assert torch.equal(outputs.logits_per_text, outputs.logits_per_image.T)
    assert outputs.loss is outputs.losses is None


def test_what_stands_after_the_end_of_a_text_cannot_matter(tiny_model, batch):
    outputs = tiny_model(**batch, return_loss=True)
    changed = batch["input_ids"].clone()
    for row, length in enumerate(LENGTHS):
        changed[row, length:] = 7
    wider = torch.cat([changed, torch.full((len(LENGTHS), 50), END)], dim=1)
    for ids in (changed, wider):
        again = tiny_model(**{**batch, "input_ids": ids}, return_loss=True)
        assert torch.equal(again.text_embeds, outputs.text_embeds)
        assert torch.equal(again.loss, outputs.loss)


def test_both_conventions_for_the_end_of_a_text_agree(tiny_config, batch):
    ids = batch["input_ids"].clone()
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = END  # CLIP's tokenizer pads with the end
    outputs = []
    for eos_token_id in (END, 2):  # 2: OpenAI's own files; the largest id is then pooled
        tiny_config.text_config.eos_token_id = eos_token_id
        torch.manual_seed(0)
        outputs.append(BetaCLIPModel(tiny_config).eval()(**{**batch, "input_ids": ids}, return_loss=True))
    assert torch.equal(outputs[0].text_embeds, outputs[1].text_embeds)
    assert torch.equal(outputs[0].loss, outputs[1].loss)


def test_the_loss_is_the_weighted_sum_of_its_parts_over_the_right_texts(tiny_model, batch):
    batch["granularity"] = torch.tensor([0, 1, 2, 3, 0, 2, 0, 1, 2])  # one short caption: no part of β-CAL
    outputs = tiny_model(**batch, return_loss=True)
    captions, aligned = batch["granularity"] == 0, batch["granularity"] < 3
    v, u = outputs.contextualized_embeds[aligned], outputs.text_embeds[aligned]
    scales = tiny_model.logit_scale.exp(), tiny_model.pooler.logit_scale.exp()
    expected = {
        "clip_loss": clip_loss(outputs.image_embeds, outputs.text_embeds[captions], logit_scale=scales[0]),
        "beta_cal_loss": beta_cal_loss(v, u, IMAGE_INDEX[aligned], logit_scale=scales[1], beta=0.5, kind="ce"),
    }
    assert {name: part.item() for name, part in outputs.losses.items()} == pytest.approx(
        {name: part.item() for name, part in expected.items()}
    )
    assert outputs.loss.item() == pytest.approx(sum(part.item() for part in expected.values()))

    # Values of the configuration are read at each forward.
    tiny_model.config.clip_loss_weight, tiny_model.config.beta_cal_loss_weight = 0.5, 2.0
    tiny_model.config.beta, tiny_model.config.alignment_loss = 0.1, "bce"
    again = tiny_model(**batch, return_loss=True)
    bce = beta_cal_loss(v, u, IMAGE_INDEX[aligned], logit_scale=scales[1], beta=0.1, kind="bce")
    assert again.losses["beta_cal_loss"].item() == pytest.approx(bce.item())
    assert again.loss.item() == pytest.approx(0.5 * expected["clip_loss"].item() + 2 * bce.item())
    tiny_model.config.clip_loss_weight = 0
    assert set(tiny_model(**batch, return_loss=True).losses) == {"beta_cal_loss"}


def test_the_order_of_captions_within_their_image_does_not_matter(tiny_model, batch):
    expected = tiny_model(**batch, return_loss=True).loss
    order = torch.tensor([6, 1, 8, 3, 0, 5, 2, 7, 4])
    shuffled = {name: value[order] if name != "pixel_values" else value for name, value in batch.items()}
    torch.testing.assert_close(tiny_model(**shuffled, return_loss=True).loss, expected)


def test_gradients_reach_every_parameter_that_is_used(tiny_model, batch):
    tiny_model(**batch, return_loss=True).loss.backward()
    blind = {"k_proj.bias"}  # a softmax does not see a shift of all keys
    for name, parameter in tiny_model.named_parameters():
        if not name.endswith(tuple(blind)):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    positions = tiny_model.get_parameter(POSITIONS).grad.abs().sum(dim=1)
    assert (positions[:60] > 0).all() and (positions[60:] == 0).all()


def test_gradient_checkpointing_changes_nothing(tiny_model, batch):
    def gradients():
        tiny_model.zero_grad()
        tiny_model(**batch, return_loss=True).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in tiny_model.named_parameters()}

    tiny_model.train()
    expected = gradients()
    enable_checkpointing(tiny_model, {"use_reentrant": False})
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_implementations_agree(tiny_model, batch, tmp_path, implementation):
    tiny_model.save_pretrained(tmp_path)
    model = BetaCLIPModel.from_pretrained(tmp_path, attn_implementation=implementation).eval()
    assert model.config._attn_implementation == implementation
    expected, outputs = tiny_model(**batch, return_loss=True), model(**batch, return_loss=True)
    for name in ("image_embeds", "text_embeds", "contextualized_embeds", "loss"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_precision_keeps_embeddings_and_losses_in_float32(tiny_model, batch, how):
    expected = tiny_model(**batch, return_loss=True)
    if how == "weights":
        tiny_model.bfloat16()
        outputs = tiny_model(**batch, return_loss=True)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = tiny_model(**batch, return_loss=True)
    for name in ("loss", "logits_per_image", "image_embeds", "text_embeds", "contextualized_embeds"):
        assert outputs[name].dtype == torch.float32, name
        torch.testing.assert_close(outputs[name], expected[name], rtol=0.05, atol=0.2)
    norms = outputs.contextualized_embeds.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    outputs.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in tiny_model.parameters())


def test_text_conditioned_features_in_all_their_forms(tiny_model, pixel_values):
    ids = texts([6, 9, 12])
    patches, embeds = tiny_model.get_patch_features(pixel_values), tiny_model.get_text_features(ids).pooler_output
    pairs, attention = tiny_model.get_text_conditioned_image_features(pixel_values, ids, output_attentions=True)
    assert (pairs.shape, attention.shape) == ((3, 32), (3, 8, 16))
    torch.testing.assert_close(pairs.norm(dim=-1), torch.ones(3))
    again = tiny_model.get_text_conditioned_image_features(patch_features=patches, text_embeds=embeds)
    torch.testing.assert_close(again, pairs)
    scores = tiny_model.score_pairs(patches, embeds)
    unit_embeds = embeds / embeds.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(scores.diagonal(), (pairs * unit_embeds).sum(dim=-1))
    one_image = tiny_model.get_text_conditioned_image_features(pixel_values[1:2], ids)
    torch.testing.assert_close((one_image * unit_embeds).sum(dim=-1), scores[1])
    index = torch.tensor([2, 0, 0])
    indexed = tiny_model.get_text_conditioned_image_features(pixel_values, ids, image_index=index)
    torch.testing.assert_close((indexed * unit_embeds).sum(dim=-1), scores[index, torch.arange(3)])


def test_wrong_input_is_named(tiny_model, batch, tiny_config):
    ids, pixels = batch["input_ids"], batch["pixel_values"]
    with pytest.raises(ValueError, match=r"image_index must have shape \(9,\), but is \(8,\)"):
        tiny_model(**{**batch, "image_index": IMAGE_INDEX[:-1]})
    with pytest.raises(ValueError, match=r"granularity must have shape \(9,\) for a loss, but is None"):
        tiny_model(**{**batch, "granularity": None}, return_loss=True)
    with pytest.raises(ValueError, match="pixel_values must hold at least one image, but holds none"):
        tiny_model(**{**batch, "pixel_values": pixels[:0]})
    two_captions = torch.tensor([0, 0, 2, 2, 0, 2, 0, 1, 2])
    with pytest.raises(ValueError, match=r"must have one caption for a loss, but they have \[2, 1, 1\]"):
        tiny_model(**{**batch, "granularity": two_captions}, return_loss=True)
    with pytest.raises(ValueError, match="exactly one of pixel_values and patch_features"):
        tiny_model.get_text_conditioned_image_features(input_ids=ids)
    with pytest.raises(ValueError, match="exactly one of input_ids and text_embeds"):
        tiny_model.get_text_conditioned_image_features(pixels)
    with pytest.raises(ValueError, match="but there are 3 images and 9 texts"):
        tiny_model.get_text_conditioned_image_features(pixels, ids)
    tiny_model.config.clip_loss_weight = tiny_model.config.beta_cal_loss_weight = 0
    with pytest.raises(ValueError, match="a part of positive weight"):
        tiny_model(**batch, return_loss=True)
    with pytest.raises(ValueError, match="path must be None for a model with one text path, but is 'long'"):
        tiny_model.get_text_features(ids, path="long")
    tiny_config.use_pooler = False
    model = BetaCLIPModel(tiny_config)
    assert model(**batch).contextualized_embeds is None
    with pytest.raises(ValueError, match="use_pooler must be True"):
        model.score_pairs(torch.randn(1, 16, 32), torch.randn(1, 32))


def test_an_argument_without_effect_is_refused(tiny_model, batch):
    for name in ("gather", "objective"):
        with pytest.raises(TypeError, match=f"{name} is an argument of `loss_context`"):
            tiny_model(**batch, **{name: lambda rows: rows})
        with pytest.raises(TypeError, match="loss_context"):
            tiny_model(**batch, **{name: None})
    with pytest.raises(TypeError, match="unexpected keyword argument 'granularitty' for a batch with image_index"):
        tiny_model(**batch, granularitty=None)
    for name in ("output_attentions", "output_hidden_states", "use_cache"):
        with pytest.raises(ValueError, match=f"^{name} must be (False|left unset) for a batch with image_index"):
            tiny_model(**batch, **{name: True})
    for name in ("inputs_embeds", "num_items_in_batch"):
        with pytest.raises(ValueError, match=f"^{name} must be left unset"):
            tiny_model(**batch, **{name: torch.ones(2)})
    for name, value in {"granularity": GRANULARITY, "boxes": torch.rand(1, 4), "region_input_ids": texts([4])}.items():
        with pytest.raises(ValueError, match=f"{name} needs image_index beside it, but image_index is missing"):
            tiny_model(batch["input_ids"], batch["pixel_values"], **{name: value})
    with pytest.raises(ValueError, match="hard_input_ids needs boxes beside it, but boxes is missing"):
        tiny_model(**batch, hard_input_ids=texts([4]))


@pytest.mark.parametrize("value", [None, False])
def test_what_wrappers_pass_unset_is_accepted(tiny_model, batch, value):
    names = ("inputs_embeds", "output_attentions", "output_hidden_states", "num_items_in_batch", "use_cache")
    expected = tiny_model(**batch)
    outputs = tiny_model(**batch, **dict.fromkeys(names, value), return_dict=None, plan=None)
    assert torch.equal(outputs.text_embeds, expected.text_embeds)
    as_tuple = tiny_model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], expected[0])


def test_without_a_pooler_a_flat_batch_trains_clip(tiny_config, batch):
    tiny_config.use_pooler = False
    tiny_config.clip_loss_weight = tiny_config.beta_cal_loss_weight = 1.0
    outputs = BetaCLIPModel(tiny_config)(**batch, return_loss=True)
    assert set(outputs.losses) == {"clip_loss"}


def test_images_of_another_size_are_interpolated_on_request(tiny_model):
    larger = torch.randn(2, 3, 48, 48)
    assert tiny_model.get_patch_features(larger, interpolate_pos_encoding=True).shape == (2, 36, 32)
    with pytest.raises(ValueError, match="doesn't match model"):
        tiny_model.get_patch_features(larger)


def test_a_text_pools_the_patches_of_an_image_of_another_shape(tiny_model, batch):
    """6 × 10 patches instead of 4 × 4: the text pools what `get_patch_features` gives."""
    wide, ids = torch.randn(1, 3, 48, 80), batch["input_ids"][:1]
    with torch.no_grad():
        patches = tiny_model.get_patch_features(wide, interpolate_pos_encoding=True)
        pooled = tiny_model.get_text_conditioned_image_features(wide, ids, interpolate_pos_encoding=True)
        expected = tiny_model.get_text_conditioned_image_features(patch_features=patches, input_ids=ids)
    assert patches.shape == (1, 60, 32)
    torch.testing.assert_close(pooled, expected)


def test_every_feature_method_takes_images_of_another_size(tiny_model, batch):
    """Also of another shape: 4 × 8 patches, where the model was made for 4 × 4."""
    wide = torch.randn(1, 3, 32, 64)
    size = {"interpolate_pos_encoding": True}
    ids = batch["input_ids"][:3]
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0]])
    with torch.no_grad():
        patches = tiny_model.get_patch_features(wide, **size)
        texts = tiny_model.get_text_features(ids).pooler_output
        conditioned, attention = tiny_model.get_text_conditioned_image_features(
            wide, ids, image_index=torch.zeros(3, dtype=torch.int64), output_attentions=True, **size
        )
        images = tiny_model.get_image_features(wide, **size).pooler_output
        regions = tiny_model.get_region_features(wide, boxes, **size)
        flat = tiny_model(pixel_values=wide, input_ids=ids, image_index=torch.zeros(3, dtype=torch.int64), **size)
    assert patches.shape == (1, 32, 32) and attention.shape[-1] == 32
    torch.testing.assert_close(flat.image_embeds, images / images.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(conditioned, flat.contextualized_embeds)
    # The left half of the image is the first four columns of patches.
    torch.testing.assert_close(regions[0], patches[0].view(4, 8, 32)[:, :4].mean((0, 1)), atol=0.2, rtol=0.2)
    # What has patches already takes any number of them.
    scores = (conditioned * torch.nn.functional.normalize(texts, dim=-1)).sum(-1)
    torch.testing.assert_close(tiny_model.score_pairs(patches, texts)[0], scores)
    pairs = tiny_model.score_candidates(patches, texts, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    torch.testing.assert_close(pairs, scores)
    for method, inputs in [
        ("get_text_conditioned_image_features", (wide, ids[:1])),
        ("get_region_features", (wide, boxes)),
        ("get_image_features", (wide,)),
    ]:
        with pytest.raises(ValueError, match="doesn't match model"):
            getattr(tiny_model, method)(*inputs)
