"""The tiled losses against the dense ones: value and gradients, whole and in parts as processes compute them."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from beta_clip_hf import beta_cal_loss, clip_loss, region_loss
from beta_clip_hf.model import logit_tiles_beta_clip, paired_rows_beta_clip
from beta_clip_hf.model.logit_tiles_beta_clip import tiles_of
from beta_clip_hf.model.tiled_beta_clip import tiled_contrast, tiled_sigmoid


ROWS, WIDTH, SCALE = 13, 5, 1 / 0.07
IMAGES = {
    "adjacent": torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 9]),
    "in any order": torch.tensor([7, -2, 7, 3, -2, 7, 7, 100, 3, 0, 7, -2, 5]),
    "one image": torch.zeros(ROWS, dtype=torch.long),
    "each its own": torch.arange(ROWS).flip(0),
}
BETA_CAL = list(itertools.product(("ce", "bce"), (0.0, 0.3, 1.0)))
CASES = [("clip", 0.0, "adjacent"), ("region", 0.0, "adjacent"), ("region", 0.0, "in any order")]
CASES += [(kind, beta, images) for (kind, beta), images in itertools.product(BETA_CAL, IMAGES)]
# Rows of each process: even, uneven, one of three without any.
PROCESSES = [(7, 6), (2, 10, 1), (6, 0, 7)]


@pytest.fixture(params=[3, 5, 64])
def side(request, monkeypatch):
    """Longest side of a tile: two that do not divide the rows, and one with a single tile for all."""
    monkeypatch.setattr(logit_tiles_beta_clip, "CPU_TILE", request.param)
    return request.param


def leaves_of(rows=ROWS, *, scale=SCALE, dtype=torch.float64, width=WIDTH):
    generator = torch.Generator().manual_seed(rows)
    v, u = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    values = (F.normalize(v, dim=-1), F.normalize(v + u, dim=-1), torch.tensor(scale, dtype=torch.float64))
    return [value.to(dtype).requires_grad_() for value in values]


def loss_of(path, kind, beta, leaves, index):
    """One of the losses, with `path` "dense" or "tiled"."""
    v, u, scale = leaves
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", {"dense": float("inf"), "tiled": 0}[path])
        if kind == "clip":
            return clip_loss(v, u, logit_scale=scale)
        if kind == "region":
            return region_loss(v, u, logit_scale=scale, text_id_R=index)
        return beta_cal_loss(v, u, index, logit_scale=scale, beta=beta, kind=kind)


def value_and_gradients(loss, leaves):
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_close(found, expected, tolerance=1e-12):
    """Up to `tolerance` of the largest; an all-zero gradient would pass any comparison."""
    for actual, exact in zip(found, expected, strict=True):
        assert actual.shape == exact.shape and exact.abs().max() > 1e-5
        assert (actual.double() - exact.double()).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize(("kind", "beta", "images"), CASES)
def test_value_and_gradients_are_those_of_the_dense_loss(kind, beta, images, side):
    leaves = leaves_of()
    found, expected = (
        value_and_gradients(loss_of(path, kind, beta, leaves, IMAGES[images]), leaves) for path in ("tiled", "dense")
    )
    assert_close(found, expected)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize(("kind", "beta"), BETA_CAL)
def test_texts_are_left_out_as_by_the_dense_loss(kind, beta, images, side, monkeypatch):
    leaves, results = leaves_of(), []
    v, u, scale = leaves
    text_id = torch.tensor([4, -9, 4, 4, 1, -9, 1, 2, 4, 4, -9, 0, 1])
    for limit in (float("inf"), 0):
        monkeypatch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", limit)
        loss = beta_cal_loss(v, u, IMAGES[images], logit_scale=scale, beta=beta, kind=kind, text_id_T=text_id)
        results.append(value_and_gradients(loss, leaves))
    assert_close(results[1], results[0])
    has_twins = images != "one image"
    assert (results[0][0] < loss_of("dense", kind, beta, leaves, IMAGES[images]) - 1e-3) == has_twins


@pytest.mark.parametrize(("kind", "beta"), [("clip", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_one_text(kind, beta):
    leaves = leaves_of(1)
    found, expected = (
        value_and_gradients(loss_of(path, kind, beta, leaves, torch.tensor([3])), leaves) for path in ("tiled", "dense")
    )
    for actual, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, exact, rtol=0, atol=1e-14)
    assert (found[0] > 0) == (kind == "bce")  # a softmax over one text is certain


def test_regions_that_all_have_one_text_have_no_negatives(side):
    leaves = leaves_of()
    for value in value_and_gradients(loss_of("tiled", "region", 0.0, leaves, IMAGES["one image"]), leaves):
        assert value.abs().max() < 1e-14


@pytest.mark.parametrize("counts", PROCESSES)
@pytest.mark.parametrize("images", ["adjacent", "in any order"])
@pytest.mark.parametrize(("kind", "beta"), [("clip", 0.0), ("region", 0.0), ("ce", 0.3), ("ce", 1.0)])
def test_contrasts_of_parts_add_up_to_the_whole(kind, beta, images, counts, side):
    """Each process holds some rows of the left side and all columns: value and gradients of the whole, summed."""
    index, leaves = IMAGES[images], leaves_of()
    v, u, scale = leaves
    ids = {"clip": {}, "region": {"text_id_E": index}}.get(kind, {"image_index_E": index, "beta": beta})
    parts = [slice(stop - count, stop) for count, stop in zip(counts, itertools.accumulate(counts), strict=True)]
    vectors = []  # the log-sum-exps of each process, before any knows those of the others

    def losses(logsumexp):
        return [
            tiled_contrast(v[part], u, logit_scale=scale, first_row=part.start, **ids, logsumexp=logsumexp)
            for part in parts
        ]

    losses(lambda vector: vectors.append(vector) or vector)
    assert [tuple(vector.shape) for vector in vectors] == [(ROWS,)] * len(parts)
    found = sum(losses(lambda vector: torch.stack(vectors).logsumexp(dim=0))) / ROWS
    whole = loss_of("dense", kind, beta, leaves, index)
    assert_close(value_and_gradients(found, leaves), value_and_gradients(whole, leaves))


@pytest.mark.parametrize("counts", PROCESSES)
@pytest.mark.parametrize("images", ["adjacent", "in any order"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_sigmoids_of_parts_add_up_to_the_whole(beta, images, counts, side):
    index, leaves = IMAGES[images], leaves_of()
    v, u, scale = leaves
    total = 0.0
    for part in [slice(stop - n, stop) for n, stop in zip(counts, itertools.accumulate(counts), strict=True)]:
        total += tiled_sigmoid(v[part], u, index, logit_scale=scale, beta=beta, first_row=part.start)
    whole = loss_of("dense", "bce", beta, leaves, index)
    assert_close(value_and_gradients(total / ROWS**2, leaves), value_and_gradients(whole, leaves))


def test_a_part_without_rows_has_zero_gradients_for_all_columns():
    """Its process takes part in the backward pass of the gather, so its gradients have to be there."""
    _, u, scale = leaves_of()
    empty = torch.zeros(0, WIDTH, dtype=torch.float64, requires_grad=True)
    ids = {"image_index_E": IMAGES["adjacent"], "beta": 0.5}
    for loss in (
        tiled_contrast(empty, u, logit_scale=scale, first_row=4, **ids),
        tiled_sigmoid(empty, u, IMAGES["adjacent"], logit_scale=scale, beta=0.5, first_row=4),
    ):
        assert loss.item() == 0
        shapes = [
            (gradient.shape, gradient.abs().sum().item()) for gradient in torch.autograd.grad(loss, [empty, u, scale])
        ]
        assert shapes == [(empty.shape, 0), (u.shape, 0), (scale.shape, 0)]


def test_rows_beyond_the_columns_are_our_mistake():
    v, u, scale = leaves_of()
    with pytest.raises(AssertionError, match="each row has a partner"):
        tiled_contrast(v[:5], u, logit_scale=scale, first_row=9)


@pytest.mark.parametrize(("kind", "beta"), [("region", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_gradcheck(kind, beta, monkeypatch):
    monkeypatch.setattr(logit_tiles_beta_clip, "CPU_TILE", 2)
    leaves, index = leaves_of(5, scale=3.0, width=3), torch.tensor([1, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda *leaves: loss_of("tiled", kind, beta, leaves, index), leaves)


@pytest.mark.parametrize("scale", [100.0, 1000.0])
@pytest.mark.parametrize(("kind", "beta"), [("clip", 0.0), ("region", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_large_logits_in_float32(kind, beta, scale, side):
    """e^1000 is far beyond float32; the opposite of the right answers makes the losses large, too."""
    index = IMAGES["in any order"]
    v, u, s = leaves_of(scale=scale, dtype=torch.float32)
    for right in (u, -u):
        exact = [value.detach().double().requires_grad_() for value in (v, right, s)]
        expected = value_and_gradients(loss_of("dense", kind, beta, exact, index), exact)
        right = right.detach().requires_grad_()
        found = value_and_gradients(loss_of("tiled", kind, beta, (v, right, s), index), (v, right, s))
        # The logits themselves are rounded to 1000 · 2^-24, an error of 6e-5 in each exponent.
        assert_close(found, expected, tolerance=2e-7 * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kind", "beta"), [("clip", 0.0), ("region", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_half_precision_is_accumulated_in_float32_also_under_autocast(kind, beta, dtype, side):
    index, leaves = IMAGES["adjacent"], leaves_of(dtype=dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = value_and_gradients(loss_of("dense", kind, beta, exact, index), exact)
    single = [leaf.detach().float().requires_grad_() for leaf in leaves]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of("tiled", kind, beta, leaves, index)
        half_gradients = torch.autograd.grad(loss, leaves)
        in_single = value_and_gradients(loss_of("tiled", kind, beta, single, index), single)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert_close(in_single, expected, tolerance=2e-6)
    # Gradients of half precision are those of float32, rounded once at the end.
    for half, single_gradient in zip(half_gradients, in_single[1:], strict=True):
        assert half.dtype == dtype and torch.equal(half, single_gradient.to(dtype))


@pytest.mark.parametrize(("kind", "beta"), [("ce", 0.5), ("bce", 0.5)])
def test_only_some_inputs_need_a_gradient(kind, beta, side):
    index, leaves = IMAGES["adjacent"], leaves_of()
    expected = torch.autograd.grad(loss_of("dense", kind, beta, leaves, index), leaves)
    for needed in itertools.product([False, True], repeat=3):
        some = [leaf.detach().requires_grad_(need) for leaf, need in zip(leaves, needed, strict=True)]
        loss = loss_of("tiled", kind, beta, some, index)
        assert loss.requires_grad == any(needed)
        if any(needed):
            loss.backward()
        for leaf, need, gradient in zip(some, needed, expected, strict=True):
            assert (leaf.grad is not None) == need
            if need:
                assert_close([leaf.grad], [gradient])


@pytest.mark.parametrize(("kind", "beta"), [("clip", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_the_scale_may_be_a_number_or_a_tensor_of_one(kind, beta):
    index, (v, u, scale) = IMAGES["adjacent"], leaves_of(dtype=torch.float32)
    expected = value_and_gradients(loss_of("tiled", kind, beta, (v, u, scale), index), (v, u, scale))
    assert loss_of("tiled", kind, beta, (v, u, scale.item()), index) == expected[0]
    for other in (scale.detach()[None], scale.detach().double()):
        other.requires_grad_()
        found = value_and_gradients(loss_of("tiled", kind, beta, (v, u, other), index), (v, u, other))
        assert found[0].dtype == torch.float32 and found[3].shape == other.shape and found[3].dtype == other.dtype
        assert_close([*found[:3], found[3].reshape(())], expected)


@pytest.mark.parametrize(("kind", "beta"), [("region", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_the_backward_pass_may_run_twice_but_not_be_differentiated(kind, beta):
    index, leaves = IMAGES["adjacent"], leaves_of()
    loss = loss_of("tiled", kind, beta, leaves, index)
    first, second = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(once, again) for once, again in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="create_graph must be False for a tiled loss"):
        torch.autograd.grad(loss, leaves, create_graph=True)


@pytest.mark.parametrize(("kind", "beta"), [("clip", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_a_nan_is_not_swallowed(kind, beta, side):
    leaves = [leaf.detach().clone() for leaf in leaves_of()]
    leaves[1][8, 2] = torch.nan
    assert loss_of("tiled", kind, beta, leaves, IMAGES["adjacent"]).isnan()


@pytest.mark.slow
def test_compilation_leaves_the_loops_over_tiles_alone(monkeypatch):
    """Unrolled, they would be compiled anew for each number of texts."""
    monkeypatch.setattr(paired_rows_beta_clip, "DENSE_LIMIT", 0)
    compiled_graphs = []

    def backend(graph, inputs):
        compiled_graphs.append(graph.code)
        return graph.forward

    def function(v, u, scale):
        return clip_loss(F.normalize(v, dim=-1), u, logit_scale=scale)

    leaves = leaves_of()
    found = value_and_gradients(torch.compile(function, backend=backend)(*leaves), leaves)
    assert_close(found, value_and_gradients(function(*leaves), leaves))
    assert any("normalize" in code for code in compiled_graphs)
    assert not any("mm(" in code for code in compiled_graphs)


class LargestTensor(TorchDispatchMode):
    """The most numbers that any tensor had which an operation gave back, and how many products of matrices ran."""

    def __init__(self):
        super().__init__()
        self.numbers, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize(("kind", "beta"), [("clip", 0.0), ("region", 0.0), ("ce", 0.5), ("bce", 0.5)])
def test_no_tensor_is_larger_than_a_tile_or_the_embeddings(kind, beta, monkeypatch):
    monkeypatch.setattr(logit_tiles_beta_clip, "CPU_TILE", 16)
    rows, width = 128, 4
    leaves, index = leaves_of(rows, width=width), torch.arange(rows) // 9
    largest = {}
    for path in ("dense", "tiled"):
        with LargestTensor() as mode:
            torch.autograd.grad(loss_of(path, kind, beta, leaves, index), leaves)
        largest[path] = mode.numbers
    assert largest["dense"] >= rows**2
    assert largest["tiled"] <= rows * width


@pytest.mark.parametrize(("kind", "beta", "products"), [("clip", 0.0, 4), ("ce", 0.5, 4), ("bce", 0.5, 3)])
def test_each_tile_costs_few_products(kind, beta, products, monkeypatch):
    """S once forward and once backward for both directions, and two products of gradients; "bce" needs S only once."""
    monkeypatch.setattr(logit_tiles_beta_clip, "CPU_TILE", 5)
    leaves, index, tiles = leaves_of(), IMAGES["adjacent"], 3 * 3
    with LargestTensor() as mode:
        torch.autograd.grad(loss_of("tiled", kind, beta, leaves, index), leaves)
    assert mode.products == products * tiles
    with LargestTensor() as mode, torch.no_grad():
        loss_of("tiled", kind, beta, leaves, index)
    assert mode.products == tiles  # no gradient that nobody asks for


@pytest.mark.parametrize("first_row", [0, 4])
def test_tiles_cover_every_pair_once_and_know_the_partners(first_row, side):
    v, u, scale = (leaf.detach() for leaf in leaves_of())
    left, partners = v[first_row : first_row + 9], []
    seen, same = torch.zeros(9, ROWS), torch.zeros(9, ROWS)
    index = IMAGES["adjacent"]
    for tile in tiles_of(left, u, scale, first_row):
        shape = tile.logits_me.shape
        assert max(shape) <= side and min(shape) >= min(side, 9) // 2  # no thin tile at the edge
        expected = scale * left[tile.rows] @ u[tile.columns].T
        torch.testing.assert_close(tile.logits_me, expected, rtol=0, atol=1e-13)
        seen[tile.rows, tile.columns] += 1
        first_column = tile.columns.start + tile.partner_column
        for row in range(ROWS)[tile.rows_with_partner]:
            partners.append((row, first_column + row - tile.rows.start))
        equal = tile.equal(index)
        same[tile.rows, tile.columns] = 0.0 if equal is None else equal.float()
    assert (seen == 1).all()
    assert sorted(partners) == [(row, first_row + row) for row in range(9)]
    assert torch.equal(same.bool(), index[first_row : first_row + 9, None] == index)
