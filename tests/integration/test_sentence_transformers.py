"""sentence-transformers loads a saved directory and gives our embeddings; it trains, saves and reloads the model."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from beta_clip_hf import BetaCLIPConfig, BetaCLIPModel, BetaCLIPProcessor
from beta_clip_hf.model.remote_code_beta_clip import carrying_code
from without_package import HIDDEN


pytest.importorskip("sentence_transformers", reason="sentence-transformers must be installed, but is not")

TEXTS = ["a dog", "“two” cats sit on a <|endoftext|> wall", "word " * 400]
IMAGES = [Image.new("RGB", (40, 60), "red"), Image.new("L", (60, 50), 90)]

WITHOUT_PACKAGE = f"""{HIDDEN}
import sys, torch
from PIL import Image
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True)
assert type(model[0].model).__module__.startswith("transformers_modules")
embeddings = model.encode(["a dog"]), model.encode([Image.new("RGB", (40, 60), "red")])
torch.save([torch.tensor(array) for array in embeddings], sys.argv[2])
"""


def load(directory):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(directory), device="cpu")


def our_embeddings(model, processor, texts, images):
    with torch.no_grad():
        text_inputs = processor(text=texts, padding=True, return_tensors="pt")
        text_embeds = model.get_text_features(**text_inputs).pooler_output
        image_embeds = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
    return text_embeds, image_embeds


@pytest.mark.parametrize("has_two_paths", [False, True])
def test_texts_and_images_have_our_embeddings(has_two_paths, tiny_model, tiny_processor, both_systems_config, tmp_path):
    model = tiny_model
    if has_two_paths:
        model = BetaCLIPModel(both_systems_config).eval()
        tiny_processor.short_max_length = 77
    model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    text_embeds, image_embeds = our_embeddings(model, tiny_processor, TEXTS, IMAGES)
    encoder = load(tmp_path)
    assert torch.equal(encoder.encode(TEXTS, convert_to_tensor=True), text_embeds)
    assert torch.equal(encoder.encode(IMAGES, convert_to_tensor=True), image_embeds)


def test_it_works_with_the_code_of_the_directory_alone(tiny_model, tiny_processor, tmp_path):
    directory, result = tmp_path / "saved", tmp_path / "out.pt"
    with carrying_code({BetaCLIPConfig: "AutoConfig", BetaCLIPModel: "AutoModel", BetaCLIPProcessor: "AutoProcessor"}):
        tiny_model.save_pretrained(directory)
        tiny_processor.save_pretrained(directory)
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT_PACKAGE, str(directory), str(result)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = our_embeddings(tiny_model, tiny_processor, ["a dog"], IMAGES[:1])
    for embeds, expected_embeds in zip(torch.load(result), expected, strict=True):
        # Not equal bit for bit: the other process may have more threads.
        torch.testing.assert_close(embeds, expected_embeds)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_it_trains_saves_and_reloads(checkpoint, tmp_path):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    encoder = load(checkpoint)
    before = encoder.encode(TEXTS)
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
    )
    pairs = Dataset.from_dict({"anchor": ["a", "b c", "d", "e f"], "positive": ["g", "h", "i", "j"]})
    loss = MultipleNegativesRankingLoss(encoder)
    SentenceTransformerTrainer(encoder, arguments, train_dataset=pairs, loss=loss).train()
    trained = encoder.encode(TEXTS)
    assert abs(trained - before).max() > 1e-3
    encoder.save_pretrained(str(tmp_path / "trained"))
    assert (load(tmp_path / "trained").encode(TEXTS) == trained).all()
    # The saved directory is one of ours as well.
    model = BetaCLIPModel.from_pretrained(tmp_path / "trained").eval()
    processor = BetaCLIPProcessor.from_pretrained(tmp_path / "trained")
    text_embeds, _ = our_embeddings(model, processor, TEXTS, IMAGES)
    torch.testing.assert_close(text_embeds, torch.tensor(trained))
