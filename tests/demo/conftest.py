"""A tiny model whose heads look at different places, and what the demo makes of it; once for each file."""

import pytest
import torch

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor


CAPTION = "A red circle is above a blue square. The square is large."


@pytest.fixture(scope="session", autouse=True)
def extra():
    for name in ("lancedb", "matplotlib"):
        pytest.importorskip(name)


@pytest.fixture(scope="session")
def checkpoint(tiny_clip_config, tiny_tokenizer, tmp_path_factory):
    """Random weights; queries and keys are large, so that attention is far from uniform."""
    torch.manual_seed(0)
    values = tiny_clip_config.to_dict()
    text = {**values["text_config"], "max_position_embeddings": 248}
    model = BetaCLIPModel(BetaCLIPConfig(text_config=text, vision_config=values["vision_config"], projection_dim=32))
    for projection in (model.pooler.q_proj, model.pooler.k_proj):
        torch.nn.init.normal_(projection.weight, std=1.0)
    path = tmp_path_factory.mktemp("demo") / "checkpoint"
    model.save_pretrained(path)
    BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def collection(checkpoint):
    """Eight generated scenes."""
    from beta_clip_hf.demo.collection import open_collection

    with open_collection(model=str(checkpoint), num_scenes=8, device="cpu") as collection:
        yield collection


@pytest.fixture(scope="module")
def model(collection):
    return collection.index.embedder.model


@pytest.fixture(scope="module")
def processor(collection):
    return collection.index.embedder.processor


@pytest.fixture(scope="module")
def seen(model, processor, collection):
    """The first example of the collection, as the model sees it for `CAPTION`."""
    from beta_clip_hf.demo import views

    return views.explore(model, processor, collection.example(0).image, CAPTION)
