"""What suits a device, and images that travel to a GPU as bytes."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from beta_clip_hf.inference import feeding
from beta_clip_hf.inference.embedder import Embedder
from beta_clip_hf.inference.feeding import Feeding, suited_feeding
from beta_clip_hf.model.image_views_beta_clip import pixel_scale


CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("gibibytes", "cores", "processes", "has_bfloat16", "expected"),
    [
        (141, 16, 1, True, Feeding("bfloat16", 256, 15)),
        (141, 128, 1, True, Feeding("bfloat16", 256, 16)),
        (141, 64, 8, True, Feeding("bfloat16", 256, 7)),
        (16, 4, 1, False, Feeding("float32", 128, 3)),
        (2, 1, 1, False, Feeding("float32", 32, 1)),
    ],
)
def test_a_gpu_is_fed_by_its_memory_and_the_cores(monkeypatch, gibibytes, cores, processes, has_bfloat16, expected):
    properties = SimpleNamespace(total_memory=gibibytes * 2**30 + 5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bfloat16)
    monkeypatch.setattr(feeding, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert suited_feeding(CUDA) == expected
    assert suited_feeding(CPU) == Feeding("float32", 32, 0)


def test_bytes_give_the_embeddings_of_numbers(tiny_model, tiny_processor):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 40, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    rows = [{"image": Image.fromarray(image)} for image in pixels]
    embedder = Embedder(tiny_model, tiny_processor)
    assert embedder.pixel_scale is None
    (expected,) = embedder.images(rows)
    # As on a GPU.
    embedder.pixel_scale = pixel_scale(embedder.image_processor)
    seen = []
    encode = embedder.encode_images
    embedder.encode_images = lambda processed: seen.append(processed) or encode(processed)
    (batch,) = embedder.images(rows)
    assert seen[0].inputs["pixel_values"].dtype == torch.uint8
    torch.testing.assert_close(batch.image_embeds_BD, expected.image_embeds_BD, atol=1e-6, rtol=0)
    assert float((expected.image_embeds_BD[0] - expected.image_embeds_BD[1]).norm()) > 0.01
