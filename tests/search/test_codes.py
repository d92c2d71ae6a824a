"""Indexes that keep codes of embeddings, or cut embeddings: the scores of the float path, measured recall."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from beta_clip_cli.main import main
from beta_clip_hf.inference.quantization import quantize
from beta_clip_hf.search.build import IndexSettings, build_index
from beta_clip_hf.search.codes import codes_of
from beta_clip_hf.search.index import PhotoIndex
from beta_clip_hf.search.query import Query
from beta_clip_hf.search.table import ImageTable


QUERY = Query("a red photo with an orange corner", phrases=[("blue", 0.5), ("black", -1.0)])


@pytest.fixture
def new_index(tmp_path, embedder, photos):
    """Makes an index of the six photos."""

    def make(**options):
        index = PhotoIndex.create(tmp_path / f"{len(list(tmp_path.iterdir()))}.index", embedder, **options)
        index.add(photos)
        return index

    return make


def scores(hits):
    return {hit.image: hit.score for hit in hits}


@pytest.mark.parametrize("truncate_dim", [None, 12])
@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_hits_have_the_scores_of_an_index_of_floats(new_index, embedder, photos, precision, truncate_dim):
    floats = new_index(truncate_dim=truncate_dim)
    index = new_index(precision=precision, truncate_dim=truncate_dim)
    query = Query(QUERY.text, QUERY.phrases, images=[(photos / "2.png", 0.7)])
    expected = floats.search(query)
    hits = index.search(query)
    assert [hit.image for hit in hits] == [hit.image for hit in expected] and len(hits) == 6
    for hit, expected_hit in zip(hits, expected, strict=True):
        # Embeddings are compared in half precision.
        assert abs(hit.score - expected_hit.score) < 1e-3
        assert hit.vector_D.dtype == np.float32 and hit.vector_D.shape == (truncate_dim or 32,)
    assert scores(index.search(query, exact=True)) == pytest.approx(scores(hits), abs=1e-6)
    assert [hit.image for hit in index.search(query, top=2)] == [hit.image for hit in expected[:2]]
    wide = index.search(query, where="width > 50", top=2)
    assert [hit.image for hit in wide] == [hit.image for hit in floats.search(query, where="width > 50", top=2)]
    assert index.search(query, where="width > 500") == []
    with pytest.raises(ValueError, match="where must be a condition in SQL"):
        index.search(query, where="no_such_column = 1")
    assert index.recall(["a red photo"], top=3) == (1.0, "1 texts")
    assert index.table.is_approximate and not floats.table.is_approximate


@pytest.mark.parametrize("score", ["conditioned", "hierarchical"])
@pytest.mark.parametrize("store_patches", [False, True])
def test_reranking_uses_whole_embeddings(new_index, score, store_patches):
    from beta_clip_hf.search.rerank import Reranking

    reranking = Reranking(6, score)
    whole = new_index(store_patches=store_patches).search(QUERY, rerank=reranking)
    cut = new_index(store_patches=store_patches, truncate_dim=9, precision="binary").search(QUERY, rerank=reranking)
    if score == "conditioned":
        assert scores(cut) == pytest.approx(scores(whole), abs=1e-5)
    assert {hit.image for hit in cut} == {hit.image for hit in whole}
    assert all(hit.reranked is not None for hit in cut)


def test_the_similarity_of_cut_embeddings(new_index, embedder):
    index = new_index(truncate_dim=5)
    text_D = normalize(embedder.descriptions(["red"])[0, :5].cpu(), dim=-1)
    for hit in index.search("red"):
        batch = next(iter(embedder.images([{"image": hit.image}])))
        image_D = normalize(batch.image_embeds_BD[0, :5].cpu(), dim=-1)
        assert hit.score == pytest.approx(float(text_D @ image_D), abs=1e-5)


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.999), ("binary", 0.95)])
def test_recall(tmp_path, precision, least):
    """Of 2,000 images in clusters of 50, the ten best are found; the codes alone would not do for binary."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    vectors = normalize(noise(40, 128).repeat(50, 1) + 0.7 * noise(2000, 128), dim=-1)
    queries = normalize(vectors[::40] + 0.03 * noise(50, 128), dim=-1).numpy()
    table = ImageTable.create(tmp_path / "index", 128, {"model": "none", "precision": precision})
    for start in range(0, 2000, 1000):
        records = [{"image": f"{start + n}.jpg", "width": n} for n in range(1000)]
        table.append(records, vectors[start : start + 1000].numpy())
    table.finish()
    assert not table.has_vector_index
    assert table.recall(queries, top=10) >= least
    truth = (torch.from_numpy(queries) @ vectors.T).topk(10).indices
    shares = []
    for query, best in zip(queries, truth.tolist(), strict=True):
        expected = {f"{n}.jpg" for n in best}
        found = {row["image"] for row in table.nearest(query, 10)}
        shares.append(len(found & expected) / 10)
    assert np.mean(shares) >= least


@pytest.mark.slow
def test_many_images_have_a_vector_index_beside_codes_of_8_bits(tmp_path, monkeypatch):
    from beta_clip_hf.search import table as table_module

    monkeypatch.setattr(table_module, "EXACT_BELOW", 300)
    vectors = normalize(torch.randn(400, 16), dim=-1).numpy()
    for precision in ("int8", "binary"):
        table = ImageTable.create(tmp_path / precision, 16, {"model": "none", "precision": precision})
        table.append([{"image": f"{n}.jpg", "width": n} for n in range(400)], vectors)
        table.finish()
        assert table.has_vector_index == (precision == "int8")
        assert [row["image"] for row in table.nearest(vectors[7], 1)] == ["7.jpg"]
        # Sixteen signs tell little of noise.
        assert table.recall(vectors[:10], top=5) >= (0.95 if precision == "int8" else 0.6)


def test_the_help_repeats_the_precisions_of_the_library():
    from beta_clip_cli import index
    from beta_clip_hf.inference import quantization

    assert index.PRECISIONS == quantization.PRECISIONS


def test_codes():
    embeds = normalize(torch.randn(20, 13), dim=-1).numpy()
    codes = codes_of(embeds, "int8")
    assert codes.dtype == np.int8 and (np.abs(codes).max(axis=1) == 127).all()
    for code, embed in zip(codes, embeds, strict=True):
        assert code.tolist() == [round(float(127 * number / np.abs(embed).max())) for number in embed]
    bits = codes_of(embeds, "binary")
    assert bits.dtype == np.uint8 and (bits == np.packbits(embeds > 0, axis=1)).all()
    assert (bits.astype(int) - 128 == quantize(torch.from_numpy(embeds), "binary").numpy()).all()
    assert (codes_of(np.zeros((1, 4), np.float32), "int8") == 0).all()


def test_an_index_knows_what_it_keeps(tmp_path, checkpoint, photos, capsys):
    path = str(tmp_path / "photos.index")
    command = ["index", str(photos), "--output", path, "--json"]
    options = ["--model", str(checkpoint), "--precision", "binary", "--truncate-dim", "16", "--device", "cpu"]
    assert main([*command, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 6 and report["recall"] == 1
    table = ImageTable.open(path)
    assert (table.precision, table.embedding_size, table.info["truncate_dim"]) == ("binary", 16, 16)
    # Another run and a search need no options, and may repeat them.
    (photos / "0.png").unlink()
    assert main([*command, "--device", "cpu"]) == 0
    assert main([*command, *options]) == 0
    capsys.readouterr()
    assert main(["search", path, "a red photo", "--json", "--device", "cpu"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5
    for option, value, message in [
        ("--precision", "int8", "precision must be that of the index, 'binary', but is 'int8'"),
        ("--truncate-dim", "8", "truncate_dim must be that of the index, whose embeddings have 16 numbers, but is 8"),
    ]:
        assert main([*command, option, value]) != 0
        assert message in capsys.readouterr().err


def test_impossible_values_leave_no_index_behind(tmp_path, checkpoint, photos):
    path = tmp_path / "photos.index"
    for options, message in [
        ({"precision": "int4"}, "precision must be one of"),
        ({"truncate_dim": 33}, "truncate_dim must be a whole number from 1 to 32"),
        ({"truncate_dim": 0}, "truncate_dim must be a whole number from 1 to 32"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_index(photos, path, IndexSettings(model=str(checkpoint), device="cpu", **options))
        assert not path.exists() or not list(path.glob("images*"))
