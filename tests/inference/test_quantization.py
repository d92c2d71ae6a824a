"""Smaller embeddings: held against plain loops, and against sentence-transformers where it is installed."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from beta_clip_hf.inference.quantization import quantize, truncate


@pytest.fixture
def embeds():
    """(300, 21) normalised; one dimension is the same everywhere, one is large."""
    embeds = torch.randn(300, 21)
    embeds[:, 3] = 0.5
    embeds[:, 4] += 6
    return normalize(embeds, dim=-1)


def test_int8_by_plain_loops(embeds):
    calibration, values = embeds[:200].numpy(), embeds[200:].numpy()
    expected = np.zeros(values.shape, np.int8)
    for dim in range(values.shape[1]):
        low, high = calibration[:, dim].min(), calibration[:, dim].max()
        step = (high - low) / np.float32(255) or np.float32(1)
        for row, value in enumerate(values[:, dim]):
            expected[row, dim] = min(255, max(0, int(np.floor((value - low) / step)))) - 128
    codes = quantize(embeds[200:], "int8", embeds[:200])
    assert codes.dtype == torch.int8
    assert (codes.numpy() == expected).all()
    # Values beyond the ranges are in the first and the last step, and do not wrap around.
    beyond = quantize(torch.stack([embeds[0] + 9, embeds[0] - 9]), "int8", embeds)
    assert beyond[0].eq(127).all() and beyond[1].eq(-128).all()


def test_binary_by_plain_loops(embeds):
    codes = quantize(embeds, "binary")
    assert codes.shape == (300, 3) and codes.dtype == torch.int8
    for row in range(len(embeds)):
        for place in range(24):
            bit = (int(codes[row, place // 8]) + 128) >> (7 - place % 8) & 1
            assert bit == (place < 21 and bool(embeds[row, place] > 0))


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_the_numbers_are_those_of_sentence_transformers(embeds, precision):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers must be installed, but is not")
    values, calibration = embeds[:150], embeds[100:] if precision == "int8" else None
    theirs = library.quantize_embeddings(
        values.numpy(), precision, calibration_embeddings=None if calibration is None else calibration.numpy()
    )
    ours = quantize(values, precision, calibration).numpy()
    assert ours.dtype == theirs.dtype and (ours == theirs).all()
    assert (quantize(values, precision).numpy() == library.quantize_embeddings(values.numpy(), precision)).all()


def test_neighbours_are_kept():
    """The ten nearest of 2,000: of 8 bits nearly all; of signs nearly all among 60, where chance finds 3 %."""
    gallery = normalize(torch.randn(40, 256).repeat(50, 1) + 0.7 * torch.randn(2000, 256), dim=-1)
    queries = normalize(gallery[::40] + 0.02 * torch.randn(50, 256), dim=-1)
    nearest = (queries @ gallery.T).topk(10).indices

    def recall(scores, count=10):
        found = scores.topk(count).indices
        return (found[:, :, None] == nearest[:, None]).any(1).float().mean()

    codes_GD = quantize(gallery, "int8")
    low_D, high_D = gallery.amin(0), gallery.amax(0)
    middles_GD = low_D + (codes_GD.float() + 128.5) * (high_D - low_D) / 255
    assert ((middles_GD - gallery).abs() <= 0.51 * (high_D - low_D) / 255).all()
    assert recall(queries @ middles_GD.T) > 0.95
    bits = []
    for embeds in (queries, gallery):
        bits.append(np.unpackbits(quantize(embeds, "binary").numpy().view(np.uint8) ^ 128, axis=1))
    query_bits_QB, image_bits_GB = (torch.from_numpy(array) for array in bits)
    hamming = (query_bits_QB[:, None] != image_bits_GB).sum(-1)
    assert recall(-hamming, 60) > 0.95


def test_truncated_embeddings(embeds):
    assert truncate(embeds, None) is embeds
    torch.testing.assert_close(truncate(embeds, 5), embeds[:, :5] / embeds[:, :5].norm(dim=-1, keepdim=True))
    assert torch.equal(truncate(embeds, 5, normalize=False), embeds[:, :5])
    for wrong in (0, 22, -1, True, 2.0):
        with pytest.raises(ValueError, match="truncate_dim must be a whole number from 1 to 21"):
            truncate(embeds, wrong)


def test_wrong_calibrations_are_named(embeds):
    for options, message in [
        (("int8", embeds[:1]), "calibration_embeds must be two or more embeddings of floats"),
        (("int8", embeds[0]), "calibration_embeds must be two or more embeddings of floats"),
        (("int8", embeds.to(torch.int8)), "calibration_embeds must be .* of floats, but is torch.int8"),
        (("int8", embeds[:, :5]), "calibration_embeds must be 21 numbers wide, but is 5"),
        (("binary", embeds), "calibration_embeds must be left out for precision 'binary'"),
        (("uint8", None), "precision must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            quantize(embeds, *options)


def test_few_embeddings_without_a_calibration_are_warned_of(embeds, caplog):
    quantize(embeds[:7], "int8", embeds)
    quantize(embeds, "int8")
    assert not caplog.records
    quantize(embeds[:7], "int8")
    assert "come from 7 embeddings" in caplog.text
