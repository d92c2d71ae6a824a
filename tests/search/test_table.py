"""The vector index of a table."""

import numpy as np
import pytest
import torch

from beta_clip_hf.search import table


@pytest.mark.slow
def test_a_vector_index_is_trained_again_when_the_collection_has_doubled(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "EXACT_BELOW", 300)
    images = table.ImageTable.create(tmp_path / "index", 16, {"model": "none"})
    generator = torch.Generator().manual_seed(0)

    def add(first, count):
        vectors = torch.nn.functional.normalize(torch.randn(count, 16, generator=generator), dim=1).numpy()
        images.append([{"image": f"{first + n}.jpg", "width": n} for n in range(count)], vectors)
        images.finish()
        return vectors

    def trained_on():
        return [vector_index.name for vector_index in images._images.list_indices()]

    add(0, 299)
    assert not images.has_vector_index
    add(299, 101)
    assert trained_on() == ["vector_400"]
    vectors = add(400, 200)
    assert trained_on() == ["vector_400"]
    assert images.nearest(vectors[7], 1)[0]["image"] == "407.jpg"  # what came later is found
    add(600, 200)
    assert trained_on() == ["vector_800"]
    assert images.recall(vectors[:10], top=5) == 1
    assert images.recall(vectors[:10], top=5, probes=1) <= 1
    few = images.nearest(vectors[0], 5, where="width < 2", probes=1)
    assert len(few) == 5 and all(row["width"] < 2 for row in few)  # more partitions than one were needed
    nearest = np.array([row["vector"] for row in images.nearest(vectors[3], 5)])
    exact = torch.tensor(vectors[3]) @ torch.tensor(nearest).T
    assert exact.tolist() == sorted(exact.tolist(), reverse=True)
