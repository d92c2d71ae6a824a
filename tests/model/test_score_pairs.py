"""`score_pairs` and `score_candidates` against one call of the pooler for each pair."""

import re

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reference
from beta_clip_hf import TextConditionedPooler


IMAGES, TEXTS, PATCHES, WIDTH, MLP_WIDTH = 4, 6, 16, 32, 128
ALL_PAIRS = torch.cartesian_prod(torch.arange(IMAGES), torch.arange(TEXTS))
SWITCHES = ("sdpa", "eager", "null token", "layer norms", "one wide head")


@pytest.fixture
def pooler(tiny_config):
    return pooler_of(tiny_config)


@pytest.fixture
def texts():
    return torch.randn(TEXTS, WIDTH, dtype=torch.float64)


@pytest.fixture
def patches():
    return torch.randn(IMAGES, PATCHES, WIDTH, dtype=torch.float64)


def pooler_of(config):
    pooler = TextConditionedPooler(config)
    # Biases and norms of a new pooler change nothing: give them weight.
    for parameter in pooler.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return pooler.double()


def loop_over_pairs(pooler, patches, texts):
    scores = torch.empty(len(patches), len(texts), dtype=texts.dtype)
    for image, text in ALL_PAIRS.tolist():
        pooled, _ = pooler(texts[text : text + 1], patches[image : image + 1], torch.tensor([0]))
        scores[image, text] = F.cosine_similarity(pooled[0], texts[text], dim=0)
    return scores


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 7, 24])
def test_every_pair_is_the_formula_whatever_the_chunks(pooler, texts, patches, chunk_size):
    scores = pooler.score_pairs(patches, texts, chunk_size=chunk_size)
    assert scores.shape == (IMAGES, TEXTS)
    assert scores.std() > 0.05
    for image, text in ALL_PAIRS.tolist():
        pooled, _ = reference.pooled(pooler, texts[text], patches[image])
        expected = reference.dot(reference.unit(pooled), reference.unit(texts[text]))
        assert scores[image, text].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_both_ways_equal_the_loop_over_pairs(tiny_config, texts, patches, switch, dtype, tolerance):
    tiny_config.pooler_null_token = switch == "null token"
    tiny_config.pooler_qkv_layer_norm = switch == "layer norms"
    tiny_config.pooler_num_attention_heads = 1 if switch == "one wide head" else 8
    pooler = pooler_of(tiny_config)
    pooler.config._attn_implementation = "eager" if switch == "eager" else "sdpa"
    expected = loop_over_pairs(pooler, patches, texts)
    pooler, patches, texts = pooler.to(dtype), patches.to(dtype), texts.to(dtype)
    scores = pooler.score_pairs(patches, texts, chunk_size=7)
    candidates = pooler.score_candidates(patches, texts, *ALL_PAIRS.unbind(dim=1), chunk_size=7)
    assert (scores.dtype, candidates.dtype) == (dtype, dtype)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(candidates.view(IMAGES, TEXTS).double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 16, 40])
def test_candidates_in_any_order_and_number(pooler, texts, patches, chunk_size):
    expected = pooler.score_pairs(patches, texts)

    def check(image_index, text_index):
        scores = pooler.score_candidates(patches, texts, image_index, text_index, chunk_size=chunk_size)
        torch.testing.assert_close(scores, expected[image_index, text_index], rtol=0, atol=1e-12)

    image_index = torch.tensor([3, 0, 3, 3, 1, 3, 3, 0, 3, 3])  # unsorted, of very unlike counts, image 2 in no pair
    text_index = torch.tensor([5, 0, 1, 5, 2, 0, 4, 0, 3, 2])  # (3, 5) and (0, 0) stand twice
    check(image_index, text_index)
    check(torch.rand(TEXTS, IMAGES).argsort(dim=1)[:, :3], torch.arange(TEXTS)[:, None])  # images for each text
    check(torch.arange(IMAGES)[:, None], torch.rand(IMAGES, TEXTS).argsort(dim=1)[:, :2])  # texts for each image
    check(torch.tensor(2), torch.tensor(3))


def test_each_image_asked_for_is_projected_once_and_no_other(pooler, texts, patches):
    rows = []
    pooler.k_proj.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0][..., 0].numel()))
    pooler.score_candidates(patches, texts, torch.tensor([3, 0, 3, 0, 3]), torch.tensor([1, 2, 3, 4, 5]))
    assert sum(rows) == 2 * PATCHES
    rows.clear()
    pooler.score_pairs(patches, texts, chunk_size=TEXTS)
    assert sum(rows) == IMAGES * PATCHES


def test_nothing_to_score_is_empty(pooler, texts, patches):
    assert pooler.score_pairs(patches, texts[:0]).shape == (IMAGES, 0)
    assert pooler.score_pairs(patches[:0], texts).shape == (0, TEXTS)
    for shape in ((0,), (TEXTS, 0)):
        nothing = torch.empty(shape, dtype=torch.long)
        assert pooler.score_candidates(patches, texts, nothing, nothing).shape == shape
    assert pooler.score_candidates(patches[:0], texts[:0], nothing, nothing).shape == shape


def test_wrong_arguments_are_named(pooler, texts, patches):
    with pytest.raises(ValueError, match="chunk_size must be at least 1 pair, but is 0"):
        pooler.score_pairs(patches, texts, chunk_size=0)
    first = torch.tensor([0])
    with pytest.raises(ValueError, match="chunk_size must be at least 1 pair, but is -1"):
        pooler.score_candidates(patches, texts, first, first, chunk_size=-1)
    with pytest.raises(ValueError, match=r"image_index must be in 0\.\.3, but is 4"):
        pooler.score_candidates(patches, texts, torch.tensor([1, 4]), first)
    with pytest.raises(ValueError, match=r"text_index must be in 0\.\.5, but is -1"):
        pooler.score_candidates(patches, texts, first, torch.tensor([[2], [-1]]))
    with pytest.raises(ValueError, match=r"must broadcast, but have shapes \(2,\) and \(3,\)"):
        pooler.score_candidates(patches, texts, torch.tensor([1, 2]), torch.tensor([0, 1, 2]))
    shape = tuple(patches[0].shape)
    with pytest.raises(ValueError, match=re.escape(f"(B, P, {shape[-1]}), but has {shape}")):
        pooler.score_pairs(patches[0], texts)
    with pytest.raises(ValueError, match=r"text_embeds must have shape \(T, .*\), but has"):
        pooler.score_candidates(patches, texts[:, :-1], first, first)


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest floating-point tensor that an operation returns, apart from the scores."""

    def __init__(self, scores_numel):
        super().__init__()
        self.scores_numel, self.numel = scores_numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor) and output.is_floating_point() and output.numel() != self.scores_numel:
                self.numel = max(self.numel, output.numel())
        return outputs


@pytest.mark.parametrize(("num_images", "num_texts"), [(31, 29), (80, 1), (1, 900)])
def test_the_largest_tensor_is_set_by_the_chunk(pooler, num_images, num_texts):
    patches = torch.randn(num_images, PATCHES, WIDTH, dtype=torch.float64)
    texts = torch.randn(num_texts, WIDTH, dtype=torch.float64)
    pairs = torch.cartesian_prod(torch.arange(num_images), torch.arange(num_texts)).unbind(dim=1)
    for chunk_size in (40, 100):
        bound = chunk_size * MLP_WIDTH
        with torch.no_grad(), LargestTensor(num_images * num_texts) as largest_in_pairs:
            scores = pooler.score_pairs(patches, texts, chunk_size=chunk_size)
        with torch.no_grad(), LargestTensor(num_images * num_texts) as largest_in_candidates:
            candidates = pooler.score_candidates(patches, texts, *pairs, chunk_size=chunk_size)
        assert 0 < largest_in_pairs.numel <= bound
        assert 0 < largest_in_candidates.numel <= bound
        torch.testing.assert_close(candidates.view_as(scores), scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["score_pairs", "score_candidates"])
def test_gradients_are_those_of_the_loop_over_pairs(pooler, texts, patches, way):
    leaves = [texts.requires_grad_(), patches.requires_grad_(), *pooler.parameters()]
    weights = torch.randn(IMAGES, TEXTS, dtype=torch.float64)
    if way == "score_pairs":
        scores = pooler.score_pairs(patches, texts, chunk_size=7)
    else:
        scores = pooler.score_candidates(patches, texts, *ALL_PAIRS.T, chunk_size=7).view(IMAGES, TEXTS)
    found = torch.autograd.grad((weights * scores).sum(), leaves, allow_unused=True)
    expected = torch.autograd.grad((weights * loop_over_pairs(pooler, patches, texts)).sum(), leaves, allow_unused=True)
    assert [gradient is None for gradient in found].count(True) == 1  # the logit scale belongs to the loss
    for gradient, expected_gradient in zip(found, expected, strict=True):
        assert (gradient is None) == (expected_gradient is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    assert min(found[0].abs().amax(dim=1).min(), found[1].abs().amax(dim=(1, 2)).min()) > 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("how", ["weights and features", "features", "autocast"])
def test_half_precision_gives_float32_scores(pooler, texts, patches, dtype, tolerance, how):
    # The error is then that of the computation, not that of rounding its inputs.
    patches, texts = patches.to(dtype), texts.to(dtype)
    if how == "weights and features":
        pooler.to(dtype).double()
    expected = pooler.score_pairs(patches.double(), texts.double())
    pooler.to(dtype if how == "weights and features" else torch.float32)
    if how == "autocast":
        patches, texts = patches.float(), texts.float()
    with torch.autocast("cpu", dtype, enabled=how == "autocast"):
        scores = pooler.score_pairs(patches, texts)
        candidates = pooler.score_candidates(patches, texts, *ALL_PAIRS.unbind(dim=1)).view(IMAGES, TEXTS)
    assert (scores.dtype, candidates.dtype) == (torch.float32, torch.float32)
    if how == "features":
        tolerance = 1e-5
    assert expected.std() > 0.05
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(candidates.double(), expected, rtol=0, atol=tolerance)


def test_the_model_scores_with_its_pooler(tiny_model, texts, patches):
    texts, patches = texts.float(), patches.float()
    shortlist = torch.tensor([[3, 1], [0, 2], [2, 2], [1, 0], [0, 3], [3, 2]])
    scores = tiny_model.score_pairs(patches, texts, chunk_size=5)
    candidates = tiny_model.score_candidates(patches, texts, shortlist, torch.arange(TEXTS)[:, None], chunk_size=5)
    torch.testing.assert_close(scores, tiny_model.pooler.score_pairs(patches, texts))
    torch.testing.assert_close(candidates, scores.T.gather(1, shortlist))


def test_re_ranking_as_the_documents_have_it(tiny_model, project_dir):
    page = (project_dir / "docs" / "model.md").read_text(encoding="utf-8")
    [code] = [
        block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "score_candidates" in block
    ]
    input_ids = torch.cat([torch.full((5, 1), 512), torch.randint(512, (5, 7)), torch.full((5, 1), 513)], dim=1)
    names = {"model": tiny_model, "pixel_values": torch.randn(12, 3, 32, 32), "input_ids": input_ids}
    exec(code, names)
    scores_TB = tiny_model.score_pairs(names["patches"], names["texts"]).T
    for text, images in enumerate(names["shortlist"].tolist()):
        assert names["best_first"][text].tolist() == sorted(images, key=lambda image: -scores_TB[text, image].item())
