import gzip
import random
from itertools import product

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from beta_clip_hf.data.tokenizers import clip_tokenizer_from_bpe, train_clip_tokenizer


COLOURS = ("red", "green", "dark blue", "yellow")
TEXTS = [
    f"A {colour} {shape} is left of the striped circle." for colour, shape in product(COLOURS, ("square", "triangle"))
]
VOCAB_SIZE = 556  # all that these texts have to teach


@pytest.fixture(scope="module")
def trained() -> CLIPTokenizer:
    return train_clip_tokenizer(TEXTS, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def bpe_path(shared_dir):
    return shared_dir / "data/clip_bpe/bpe_simple_vocab_16e6.txt.gz"


# Ids of OpenAI's own tokenizer.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("A Photo  of\na CAT", [320, 1125, 539, 320, 2368]),
        ("hello world!", [3306, 1002, 256]),
        ("a diagram", [320, 22697]),
    ],
)
def test_openai_ids(bpe_path, text, ids):
    assert clip_tokenizer_from_bpe(bpe_path)(text).input_ids == [49406, *ids, 49407]


def test_openai_vocabulary(bpe_path, tmp_path):
    tokenizer = clip_tokenizer_from_bpe(bpe_path)
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id) == (49408, 49406, 49407)
    assert tokenizer.pad_token_id == 49407
    assert tokenizer.model_max_length == 248
    assert clip_tokenizer_from_bpe(bpe_path, model_max_length=77).model_max_length == 77
    (tmp_path / "unpacked.txt").write_bytes(gzip.decompress(bpe_path.read_bytes()))
    assert clip_tokenizer_from_bpe(tmp_path / "unpacked.txt").get_vocab() == tokenizer.get_vocab()


def test_a_file_that_is_not_openais(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\ni n\nt h\n")
    with pytest.raises(ValueError, match=r"path must be OpenAI's file of 48894 merges, but is '.*merges\.txt' with 2"):
        clip_tokenizer_from_bpe(tmp_path / "merges.txt")


def test_the_marks_have_the_largest_ids(trained):
    assert len(trained) == VOCAB_SIZE
    assert (trained.bos_token_id, trained.eos_token_id, trained.pad_token_id) == (
        VOCAB_SIZE - 2,
        VOCAB_SIZE - 1,
        VOCAB_SIZE - 1,
    )
    batch = trained(["a red square", "a"], padding=True)
    assert batch.input_ids[0][0] == VOCAB_SIZE - 2
    assert batch.input_ids[0][-1] == VOCAB_SIZE - 1
    assert batch.attention_mask[1][-1] == 0


def test_words_are_learnt_and_lowercased(trained):
    words = "a striped triangle is left of the green square"
    assert trained.tokenize(words.upper()) == [f"{word}</w>" for word in words.split()]


@pytest.mark.parametrize("text", ["", "☃ 猫 лиса", "naïve café — “quoted”", "\x00\x7f", "🦊" * 5, "<tag> </w>"])
def test_no_text_has_an_unknown_token(trained, text):
    """CLIP's unknown token is its end token: a text would be pooled there."""
    ids = trained(text).input_ids
    assert ids.count(VOCAB_SIZE - 1) == 1
    assert ids.count(VOCAB_SIZE - 2) == 1
    assert ids[-1] == VOCAB_SIZE - 1


def test_the_vocabulary_is_cut_at_its_size():
    tokenizer = train_clip_tokenizer(TEXTS, vocab_size=530)
    assert len(tokenizer) == 530
    assert tokenizer("a red square").input_ids[-1] == tokenizer.eos_token_id == 529


def test_fewer_texts_than_merges_give_fewer_ids():
    tokenizer = train_clip_tokenizer(["red"] * 2, vocab_size=2000)
    assert len(tokenizer) == 514 + 2
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert len(train_clip_tokenizer([], vocab_size=514)) == 514


def test_training_is_reproducible():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(300)] * 2  # many pairs are equally frequent
    first = train_clip_tokenizer(iter(words), vocab_size=700)
    for _ in range(3):
        again = train_clip_tokenizer(words, vocab_size=700)
        assert again.backend_tokenizer.to_str() == first.backend_tokenizer.to_str()


def test_a_vocabulary_that_is_too_small():
    with pytest.raises(ValueError, match="vocab_size must be at least 514, but is 300"):
        train_clip_tokenizer(TEXTS, vocab_size=300)


def test_saved_and_loaded(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, "An unseen word: 猫!"]
    assert loaded(texts).input_ids == trained(texts).input_ids
    assert loaded.model_max_length == 248
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (
        VOCAB_SIZE - 2,
        VOCAB_SIZE - 1,
        VOCAB_SIZE - 1,
    )


def test_both_eos_conventions_pool_the_same_position(trained):
    """`eos_token_id=2` pools the largest id (OpenAI's own configs), the real id pools its first place."""
    layer = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    batch = trained(["a red square", "a striped circle left of it", "☃"], padding=True, return_tensors="pt")
    pooled = []
    for eos in (2, trained.eos_token_id):
        torch.manual_seed(0)
        text = {**layer, "vocab_size": len(trained), "eos_token_id": eos}
        vision = {**layer, "image_size": 8, "patch_size": 4}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
        assert model.text_model.eos_token_id == eos
        with torch.no_grad():
            pooled.append(model.get_text_features(**batch).pooler_output)
    assert torch.equal(*pooled)
    assert not torch.allclose(pooled[0][0], pooled[0][1])
