"""Texts in packed rows: the plan against plain loops, and what the model makes of it against one text at a time."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import modeling_flash_attention_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel
from beta_clip_hf.model import towers_beta_clip
from beta_clip_hf.model.packing_beta_clip import pack_texts, plan_texts, text_lengths
from model.checkpointing import enable_checkpointing


END = 513
# Three rows of 64, also without the texts that repeat others up to their end.
LENGTHS = [60, 21, 4, 4, 40, 9, 3, 21, 12, 12, 5, 30]
COPIES = {3: 2, 9: 8, 7: 1}
FLOAT32, FLOAT64 = (torch.float32, 1e-5), (torch.float64, 1e-12)
IS_LONG = torch.tensor([True] + [False] * 4 + [True] + [False] * 6)


def texts(lengths, seed=0, copies=None):
    """Makes right-padded ids `(T, L)`: start, random words, end, noise. `copies` repeat other texts up to their end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 500, (len(lengths), max(lengths)), generator=generator)
    ids[:, 0] = END - 1
    ids[range(len(lengths)), [length - 1 for length in lengths]] = END
    for copy, text in (copies or {}).items():
        ids[copy, : lengths[copy]] = ids[text, : lengths[text]]
    return ids


def planned(ids, is_long=None, **options):
    return plan_texts(ids, text_lengths(ids, END), is_long, **options)


def recipe_lengths(images, seed):
    """The paper's K = 36: five sentences of about 30 tokens, joined to the caption, and 30 phrases of 4.4 + 2."""
    generator = torch.Generator().manual_seed(seed)
    lengths = []
    for _ in range(images):
        sentences = (30 + 8 * torch.randn(5, generator=generator)).round().clamp(5, 76).int().tolist()
        phrases = (3 + torch.poisson(torch.full((30,), 3.4), generator=generator)).int().tolist()
        lengths += [min(sum(length - 1 for length in sentences) + 2, 248), *sentences, *phrases]
    return lengths


@pytest.fixture(params=["one path", "two paths"])
def model(request, tiny_config):
    return sharpened(tiny_config, request.param == "two paths")


def sharpened(tiny_config, two_paths=False, **text_options):
    """Makes a model whose attention is far from uniform: a text that is seen by another one, or missing, then shows."""
    values = tiny_config.to_dict()
    text = {**values["text_config"], **text_options, "max_position_embeddings": 77 if two_paths else 248}
    sizes = {"text_config": text, "vision_config": values["vision_config"], "projection_dim": 32}
    config = BetaCLIPConfig(**sizes, use_long_text_path=two_paths)
    torch.manual_seed(0)
    model = BetaCLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.text_model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4 if "embedding" not in name else 1.0)
    return model


def one_by_one(model, ids, is_long):
    """The slow twin: encodes each text alone, cut at its end, by CLIP's own code."""
    features = []
    for text, length in enumerate(model.text_lengths(ids).tolist()):
        path = None if model.long_text_projection is None else "long" if is_long[text] else "short"
        features.append(model.get_text_features(ids[text : text + 1, :length], path=path).pooler_output)
    return torch.cat(features)


def gradients(model, features):
    """Returns the gradients of a loss that weighs every text and every feature differently."""
    model.zero_grad()
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(3)).to(features.dtype)
    (features * weights).sum().backward()
    names = ("text_model", "text_projection", "long_text_projection")
    return {name: p.grad.clone() for name, p in model.named_parameters() if name.startswith(names)}


def assert_same_gradients(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # A softmax does not see a shift of all keys: their bias gets rounding, of their weights' size.
        size = expected[name.replace("k_proj.bias", "k_proj.weight")].abs().max().item()
        assert size > 1e-3, name
        assert (found[name] - gradient).abs().max() <= tolerance * max(1.0, size), name


# The plan


def test_first_fit_decreasing_is_the_plain_loop():
    generator = torch.Generator().manual_seed(0)
    for capacity in (1, 7, 20, 64):
        lengths = torch.randint(1, capacity + 1, (60,), generator=generator).tolist()
        rows: list[list[int]] = []
        for text in sorted(range(60), key=lambda text: -lengths[text]):
            for row in rows:
                if sum(lengths[other] for other in row) + lengths[text] <= capacity:
                    row.append(text)
                    break
            else:
                rows.append([text])
        found_rows, columns, filled = pack_texts(lengths, capacity)
        assert len(filled) == len(rows)
        for number, row in enumerate(rows):
            column = 0
            for text in row:
                assert (found_rows[text], columns[text]) == (number, column)
                column += lengths[text]
            assert filled[number] == column
    assert pack_texts([], 8) == ([], [], [])


@pytest.mark.parametrize(
    ("options", "shape"), [({}, None), ({"capacity": 70}, (3, 80)), ({"capacity": 1, "row_multiple": 5}, (5, 64))]
)
def test_a_plan_holds_each_text_once_and_in_order(options, shape):
    ids = texts(LENGTHS, copies=COPIES)
    plan = planned(ids, IS_LONG, **options)
    rows, columns = plan.text_FC.shape
    assert columns % 16 == 0 and shape in (None, (rows, columns))
    assert all(t.dtype == torch.int64 for t in (plan.text_FC, plan.position_FC, plan.last_T, plan.start_V))
    text_P, position_P = plan.text_FC.flatten().tolist(), plan.position_FC.flatten().tolist()
    for text, last in enumerate(plan.last_T.tolist()):
        start = last - LENGTHS[text] + 1
        assert start // columns == last // columns  # a text is never broken
        assert text_P[start : last + 1] == [COPIES.get(text, text)] * LENGTHS[text]
        assert position_P[start : last + 1] == list(range(LENGTHS[text]))
    assert sum(text >= 0 for text in text_P) == sum(LENGTHS) - sum(LENGTHS[copy] for copy in COPIES)
    assert plan.num_places == rows * columns
    assert all(position == 0 for text, position in zip(text_P, position_P, strict=True) if text < 0)

    borders = [p for p in range(rows * columns) if p % columns == 0 or text_P[p] != text_P[p - 1]] + [rows * columns]
    starts = plan.start_V.tolist()
    assert starts[: len(borders)] == borders and set(starts[len(borders) :]) <= {rows * columns}
    assert len(starts) == len(LENGTHS) + rows + 1

    mask = plan.mask()
    assert mask.shape == (rows, 1, columns, columns) and mask.dtype == torch.bool
    for row in range(rows):
        row_texts = text_P[row * columns : (row + 1) * columns]
        for query in range(columns):
            expected = [key <= query and row_texts[key] == row_texts[query] for key in range(columns)]
            assert mask[row, 0, query].tolist() == expected


def test_texts_are_equal_only_up_to_their_end_and_on_one_path():
    ids = texts([5, 5, 6, 5], copies={1: 0, 3: 0})
    ids[2, :4] = ids[0, :4]
    assert planned(ids).last_T.unique().numel() == 2
    on_paths = planned(ids, torch.tensor([False, True, False, False])).last_T
    assert on_paths[0] == on_paths[3] != on_paths[1]


def test_where_nothing_is_gained_each_text_has_its_row():
    for lengths in ([7], [12] * 5, [12, 12, 11, 12]):
        plan = planned(texts(lengths))
        assert plan.has_one_text_per_row and plan.num_places == len(lengths) * max(lengths)
        assert plan.text_FC[:, 0].tolist() == list(range(len(lengths)))
        assert not planned(texts(lengths), capacity=16).has_one_text_per_row  # shapes that were asked for are kept
    assert not planned(texts(LENGTHS)).has_one_text_per_row
    assert planned(texts(LENGTHS), one_text_per_row=True).has_one_text_per_row
    for options in ({"capacity": 0}, {"row_multiple": 0}):
        with pytest.raises(ValueError, match="capacity and row_multiple must be at least 1, but are"):
            planned(texts(LENGTHS), **options)


@pytest.mark.parametrize("images", [8, 64])
def test_the_recipe_computes_little_more_than_its_real_tokens(images):
    for seed in range(3):
        lengths = recipe_lengths(images, seed)
        kinds = torch.tensor(lengths).view(images, 36).double()
        means = torch.stack([kinds[:, 0].mean(), kinds[:, 1:6].mean(), kinds[:, 6:].mean()])
        torch.testing.assert_close(means, torch.tensor([147, 30, 6.4]).double(), rtol=0.1, atol=0)
        ids = texts(lengths, seed)
        ids[:, 1] = torch.arange(len(lengths)) % END  # as good as no two texts are equal
        plan, real = planned(ids), sum(lengths)
        assert (plan.text_FC >= 0).sum() >= 0.98 * real
        assert plan.num_places <= 1.05 * real
        assert len(lengths) * max(lengths) > 10 * real  # what padding to the longest would compute
        if images == 64:
            assert plan.num_places <= 1.01 * real
            bucketed = planned(ids, capacity=256, row_multiple=4)
            assert bucketed.num_places <= 1.05 * real


# The model


# The eager attention of transformers has its softmax in float32 always.
@pytest.mark.parametrize(("implementation", "precision"), [("sdpa", FLOAT32), ("eager", FLOAT32), ("sdpa", FLOAT64)])
def test_features_and_gradients_are_those_of_one_text_at_a_time(model, implementation, precision):
    dtype, tolerance = precision
    model.to(dtype).set_attn_implementation(implementation)
    ids = texts(LENGTHS, copies=COPIES)
    expected = one_by_one(model, ids, IS_LONG)
    expected_gradients = gradients(model, expected)
    for options in (None, {"one_text_per_row": True}, {"capacity": 64, "row_multiple": 8}):
        plan = None if options is None else planned(ids, IS_LONG, **options)
        found = model.encode_texts(ids, IS_LONG, plan)
        assert found.dtype == dtype and found.shape == (len(LENGTHS), 32)
        assert (found - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())
        assert torch.equal(found[list(COPIES)], found[list(COPIES.values())])
        assert_same_gradients(gradients(model, found), expected_gradients, tolerance)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_neither_neighbours_nor_what_follows_the_end_have_influence(model, implementation):
    model.set_attn_implementation(implementation)
    ids = texts(LENGTHS, copies=COPIES)
    features = model.encode_texts(ids, IS_LONG)
    noisy = torch.nn.functional.pad(ids, (0, 9), value=END)
    for text, length in enumerate(LENGTHS):
        noisy[text, length:] = 7
    assert torch.equal(model.encode_texts(noisy, IS_LONG), features)
    for text in (0, 4, 11):
        perturbed = ids.clone()
        perturbed[text, 1 : LENGTHS[text] - 1] = torch.randint(0, 500, (LENGTHS[text] - 2,))
        changed = (model.encode_texts(perturbed, IS_LONG) - features).abs().amax(dim=1)
        assert changed[text] > 1e-2
        changed[text] = 0
        assert not changed.any()  # a masked neighbour weighs exp(-inf): its tokens add exact zeros


def test_both_conventions_for_the_end_of_a_text_agree(tiny_config):
    ids = texts(LENGTHS, copies=COPIES)
    for text, length in enumerate(LENGTHS):
        ids[text, length:] = END
    modern, legacy = (sharpened(tiny_config, eos_token_id=eos) for eos in (END, 2))  # 2: the largest id is pooled
    features = modern.encode_texts(ids)
    assert torch.equal(legacy.encode_texts(ids), features)
    torch.testing.assert_close(features, one_by_one(legacy, ids, IS_LONG), rtol=0, atol=1e-5)
    assert text_lengths(ids, END).tolist() == text_lengths(ids, 2).tolist() == LENGTHS


def test_gradient_checkpointing_changes_nothing(model):
    ids, rows = texts(LENGTHS, copies=COPIES), []
    model.train()
    # Half blocks, which checkpointed blocks do without, round in another way.
    model.half_blocks = False
    expected = gradients(model, model.encode_texts(ids, IS_LONG))
    last = model.text_model.encoder.layers[-1]
    last.mlp.register_forward_pre_hook(lambda mlp, inputs: rows.append(inputs[0].shape[:-1].numel()))
    for reentrant in (False, True):
        enable_checkpointing(model, {"use_reentrant": reentrant})
        found = gradients(model, model.encode_texts(ids, IS_LONG))
        assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert rows == [len(LENGTHS)] * 4  # the last block as well, of which only the ends of the texts go on


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_precision_is_that_of_one_text_at_a_time(tiny_model, implementation, how):
    tiny_model.set_attn_implementation(implementation)
    ids = texts(LENGTHS, copies=COPIES)
    if how == "weights":
        tiny_model.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        found, expected = tiny_model.encode_texts(ids), one_by_one(tiny_model, ids, IS_LONG)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert expected.abs().mean() > 0.1
    assert all(gradient.isfinite().all() for gradient in gradients(tiny_model, found).values())


def test_no_texts_have_no_features(model):
    for plan in (None, planned(texts([5])[:0], capacity=16), planned(texts([5])[:0])):
        features = model.encode_texts(texts([5])[:0], IS_LONG[:0], plan)
        assert features.shape == (0, 32) and features.requires_grad


def test_texts_that_are_too_long_and_plans_of_other_texts_are_refused(tiny_config):
    two_paths = sharpened(tiny_config, two_paths=True)
    one_path = sharpened(tiny_config)
    one_path.encode_texts(texts([248, 5]))
    with pytest.raises(ValueError, match="a text must have at most 248 tokens, but has 249"):
        one_path.encode_texts(texts([249, 5]))
    two_paths.encode_texts(texts([248, 77]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="a text on the short path must have at most 77 tokens, but has 78"):
        two_paths.encode_texts(texts([248, 78]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="packing must be of 2 texts, but is of 3"):
        one_path.encode_texts(texts([4, 5]), packing=planned(texts([4, 5, 6])))


# The plan on its way to the model


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_with_a_plan_nothing_is_waited_for(model, implementation):
    """On the meta device there are no values: whoever asks for one fails, as it would wait on a GPU."""
    model.to("meta").set_attn_implementation(implementation)
    ids = texts(LENGTHS, copies=COPIES)
    for options in ({}, {"capacity": 64, "row_multiple": 4}, {"one_text_per_row": True}):
        plan = planned(ids, IS_LONG, **options)  # it is moved where the texts are
        features = model.encode_texts(ids.to("meta"), IS_LONG.to("meta"), plan)
        features.sum().backward()
        assert features.device.type == "meta" and features.shape == (len(LENGTHS), 32)
    with pytest.raises(RuntimeError, match="meta"):
        model.encode_texts(ids.to("meta"), IS_LONG.to("meta"))


@pytest.mark.slow
def test_shapes_of_buckets_are_compiled_once(tiny_model):
    batches = [texts(recipe_lengths(3, seed)[: 100 + seed]) for seed in range(3)]

    def frames(compiled, **options):
        torch._dynamo.reset()
        encode = compiled(counter := CompileCounter())
        for ids in batches:
            with torch.no_grad():
                encode(ids, planned(ids, **options))
        return counter.frame_count

    first, *_ = tiny_model.text_model.encoder.layers  # of the last one only parts run, and no module is called

    def block_alone(counter):
        first.compile(backend=counter, dynamic=False)
        return lambda ids, plan: tiny_model.encode_texts(ids, packing=plan)

    def everything(counter):
        encode = torch.compile(tiny_model.encode_texts, backend=counter, fullgraph=True)
        return lambda ids, plan: encode(ids, None, plan)

    bucket = {"capacity": 256, "row_multiple": 8}
    assert frames(block_alone, **bucket) == 1
    assert frames(block_alone) == len({planned(ids).text_FC.shape for ids in batches}) > 1
    first._compiled_call_impl = None
    assert frames(everything, **bucket) == 2  # the second time for any number of texts


def varlen_attention(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False
):
    """What flash-attn's `flash_attn_varlen_func` computes, by a loop; rows that no stretch covers stay NaN."""
    assert causal and cu_seqlens_q.dtype == torch.int32 and torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert cu_seqlens_q[0] == 0 and cu_seqlens_q[-1] == len(q)
    assert type(max_seqlen_q) is int and cu_seqlens_q.diff().max() <= max_seqlen_q == max_seqlen_k
    out = torch.full_like(q, torch.nan)
    for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        if start < end:
            qkv = (x[start:end].transpose(0, 1) for x in (q, k, v))
            attended = torch.nn.functional.scaled_dot_product_attention(*qkv, is_causal=True, scale=softmax_scale)
            out = torch.cat([out[:start], attended.transpose(0, 1), out[end:]])
    return out


def test_flash_attention_gets_the_stretches_of_the_rows(model, monkeypatch):
    """By transformers' own way to the kernel; only flash-attn's function is replaced."""
    process = modeling_flash_attention_utils._lazy_define_process_function(varlen_attention)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", "flash_attention_2")
    monkeypatch.setattr(modeling_flash_attention_utils, "_flash_varlen_fn", varlen_attention)
    monkeypatch.setattr(modeling_flash_attention_utils, "_process_flash_kwargs_fn", process)
    # The replacement needs no GPU.
    monkeypatch.setattr(towers_beta_clip, "check_attention", lambda config, device: None)
    ids = texts(LENGTHS, copies=COPIES)
    expected = model.encode_texts(ids, IS_LONG)
    expected_gradients, rows = gradients(model, expected), []
    model.text_model.config._attn_implementation = "flash_attention_2"
    model.text_model.encoder.layers[0].register_forward_pre_hook(lambda layer, inputs: rows.append(len(inputs[0])))
    for options in ({}, {"capacity": 64, "row_multiple": 4}):
        found = model.encode_texts(ids, IS_LONG, planned(ids, IS_LONG, **options))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert_same_gradients(gradients(model, found), expected_gradients, 1e-5)
    assert rows == [1, 1]  # as transformers wants it: all stretches in one row


def test_attention_that_makes_no_masks_gets_one_text_per_row(model, monkeypatch):
    masks = []

    def attention(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    ids = texts(LENGTHS, copies=COPIES)
    expected, plan = model.encode_texts(ids, IS_LONG), planned(ids, IS_LONG)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "ours", attention)
    model.text_model.config._attn_implementation = "ours"
    # A plan of packed rows is not used.
    for packing in (None, plan):
        torch.testing.assert_close(model.encode_texts(ids, IS_LONG, packing), expected, rtol=1e-5, atol=1e-5)
    assert masks == [None] * 4

    # Where transformers makes its masks, as for flex attention, it makes those of the plan.
    masks.clear()
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "ours", sdpa_mask)
    torch.testing.assert_close(model.encode_texts(ids, IS_LONG, plan), expected, rtol=1e-5, atol=1e-5)
    # What empty places attend to does not matter.
    is_text = (plan.text_FC >= 0)[:, None, :, None].expand_as(plan.mask())
    assert torch.equal(masks[0][is_text], plan.mask()[is_text])
