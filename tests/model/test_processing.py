import html
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoProcessor, CLIPImageProcessorPil, CLIPProcessor

from beta_clip_hf import BetaCLIPProcessor, Granularity
from beta_clip_hf.model.text_cleaning_beta_clip import clean_text


HIERARCHIES = [
    SimpleNamespace(caption="A cube. A ball.", sentences=("A cube.", "A ball."), phrases=("A cube", "A ball")),
    "Only a caption.",
    SimpleNamespace(caption="Trees", sentences=(), phrases=("Trees",), short_caption="a park"),
]


def images(n):
    return [Image.new("RGB", (40 + 5 * i, 60), (200, 50 * i, 10)) for i in range(n)]


def test_hierarchies_become_a_flat_batch(tiny_processor):
    batch = tiny_processor(images=images(3), hierarchies=HIERARCHIES)
    assert batch["image_index"].tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 2]
    assert batch["granularity"].tolist() == [0, 1, 1, 2, 2, 0, 0, 2, 3]
    assert batch["granularity"][-1] == Granularity.SHORT_CAPTION
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert all(tensor.dtype == torch.int64 for name, tensor in batch.items() if name != "pixel_values")
    decoded = tiny_processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert decoded[0].replace(" ", "") == "acube.aball."
    assert decoded[-1].replace(" ", "") == "apark"
    lengths = batch["attention_mask"].sum(dim=1)
    end = tiny_processor.tokenizer.eos_token_id
    for ids, mask, length in zip(batch["input_ids"], batch["attention_mask"], lengths, strict=True):
        assert mask[:length].all() and ids[length - 1] == end and end not in ids[: length - 1]
    texts_only = tiny_processor(hierarchies=HIERARCHIES)
    assert "pixel_values" not in texts_only
    assert torch.equal(texts_only["input_ids"], batch["input_ids"])


def test_texts_are_padded_as_the_tokenizer_pads(tiny_processor):
    texts = ["A cube.", "word " * 400, "a"]
    settings = {"padding": True, "padding_side": "right", "truncation": True, "max_length": 248}
    padded = tiny_processor.tokenizer(texts, **settings, return_tensors="pt")
    batch = tiny_processor(hierarchies=texts)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], padded[name]) and batch[name].dtype == padded[name].dtype


def test_a_model_takes_the_batch_as_it_is(tiny_processor, tiny_model):
    outputs = tiny_model(**tiny_processor(images=images(3), hierarchies=HIERARCHIES), return_loss=True)
    assert outputs.loss.isfinite()
    assert outputs.contextualized_embeds.shape == (9, 32)


def test_truncation_keeps_the_end(tiny_processor):
    batch = tiny_processor(hierarchies=["word " * 10_000])
    assert batch["input_ids"].shape == (1, 248)
    assert batch["input_ids"][0, -1] == tiny_processor.tokenizer.eos_token_id
    plain = tiny_processor(text=["word " * 500], return_tensors="pt")["input_ids"]
    assert torch.equal(plain, batch["input_ids"])


@pytest.mark.parametrize(
    "text",
    [
        "plain ascii, as most captions are",
        "“curly” quotes’ and an em—dash",
        "a man &amp;amp; a &lt;dog&gt;",
        "caf\u00c3\u00a9 mojibake",
        "non\u00a0breaking\u2028space",
        "tabs\tand\nlines ",
        "红色的球",
        "👩🏽‍🚀 astronaut",
    ],
)
def test_cleaning_is_what_openai_does(text):
    import ftfy

    assert clean_text(text) == html.unescape(html.unescape(ftfy.fix_text(text))).strip()


@pytest.fixture
def two_paths(tiny_tokenizer):
    return BetaCLIPProcessor.from_image_size(tiny_tokenizer, 32, max_length=60, short_max_length=20, squash=True)


def test_with_two_text_paths_only_the_caption_is_long(two_paths, tiny_tokenizer):
    word = "word " * 100
    texts = SimpleNamespace(caption=word, sentences=(word, "short"), phrases=(word,), short_caption=word)
    regions = [[{"box": [0, 0, 9, 9], "text": word, "hard_texts": [word, word]}, {"box": [0, 0, 9, 9], "text": "a"}]]
    batch = two_paths(images=images(1), hierarchies=[texts], regions=regions)
    assert batch["attention_mask"].sum(dim=1).tolist() == [60, 20, 7, 20, 20]
    assert batch["region_attention_mask"].sum(dim=1).tolist() == [20, 3]
    assert batch["hard_attention_mask"].sum(dim=1).tolist() == [20, 20]
    alone = {length: BetaCLIPProcessor(two_paths.image_processor, tiny_tokenizer, length) for length in (60, 20)}
    for name in ("input_ids", "region_input_ids", "hard_input_ids"):
        mask = batch[name.replace("input_ids", "attention_mask")]
        expected = alone[20](hierarchies=[word, "short", "a"])["input_ids"]
        for row, ids in enumerate(batch[name]):
            length = int(mask[row].sum())
            assert ids[length - 1] == tiny_tokenizer.eos_token_id
            assert (ids[length:] == tiny_tokenizer.pad_token_id).all() and not mask[row, length:].any()
            if (name, row) != ("input_ids", 0):
                which = {20: 0, 7: 1, 3: 2}[length]
                assert torch.equal(ids[:length], expected[which, :length])
    assert torch.equal(batch["input_ids"][0], alone[60](hierarchies=[word])["input_ids"][0])


def test_the_path_of_a_plain_text_decides_its_length(two_paths, tiny_processor):
    def length(processor, path):
        ids = processor(text=["word " * 100], path=path, return_tensors="pt")["input_ids"]
        assert ids[0, -1] == processor.tokenizer.eos_token_id
        return ids.shape[1]

    assert [length(two_paths, path) for path in (None, "short", "long")] == [20, 20, 60]
    assert length(tiny_processor, None) == 248
    for path in ("short", "long"):
        with pytest.raises(ValueError, match=f"path must be None for a processor with one text path, but is '{path}'"):
            tiny_processor(text="a", path=path)
    with pytest.raises(ValueError, match=r"path must be one of \('short', 'long'\), but is 'middle'"):
        two_paths(text="a", path="middle")
    with pytest.raises(ValueError, match="path must be None with hierarchies"):
        two_paths(hierarchies=["a"], path="long")


def test_a_short_path_is_not_longer_than_the_long_one(tiny_processor):
    with pytest.raises(ValueError, match=r"short_max_length must be at most max_length \(77\), but is 78"):
        BetaCLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, 77, short_max_length=78)


def test_cleaning_reaches_plain_and_hierarchical_texts(tiny_processor):
    plain = tiny_processor(text=["“dog” &amp; cat"], return_tensors="pt")["input_ids"]
    assert torch.equal(plain, tiny_processor(text='"dog" & cat', return_tensors="pt")["input_ids"])
    assert torch.equal(plain, tiny_processor(hierarchies=["“dog” &amp; cat"])["input_ids"])


def test_plain_calls_are_clips(tiny_processor):
    clip = CLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer)
    arguments = {"images": images(2), "text": ["a dog", "two cats sit"], "return_tensors": "pt", "padding": True}
    expected, batch = clip(**arguments), tiny_processor(**arguments)
    assert expected.keys() == batch.keys()
    assert all(torch.equal(expected[name], batch[name]) for name in expected)


@pytest.mark.parametrize("load", [BetaCLIPProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_save_and_load(tiny_tokenizer, tiny_config, tmp_path, load):
    processor = BetaCLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": 32}), tiny_tokenizer, max_length=100)
    processor.save_pretrained(tmp_path)
    tiny_config.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is BetaCLIPProcessor
    assert loaded.max_length == 100
    assert loaded.image_processor.size == processor.image_processor.size
    assert torch.equal(loaded(hierarchies=HIERARCHIES)["input_ids"], processor(hierarchies=HIERARCHIES)["input_ids"])


def test_a_stock_clip_processor_loads_with_248_tokens(tiny_processor, tmp_path):
    CLIPProcessor(tiny_processor.image_processor, tiny_processor.tokenizer).save_pretrained(tmp_path)
    loaded = BetaCLIPProcessor.from_pretrained(tmp_path)
    assert loaded(hierarchies=["word " * 300])["input_ids"].shape == (1, 248)


@pytest.mark.parametrize("load", [BetaCLIPProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_paths_and_squash_survive_saving(two_paths, tiny_config, tmp_path, load):
    two_paths.save_pretrained(tmp_path)
    tiny_config.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert (loaded.max_length, loaded.short_max_length) == (60, 20)
    picture = Image.effect_mandelbrot((70, 40), (-2, -1, 1, 1), 20)
    regions = [[{"box": [7, 4, 70, 40], "text": "a hill", "hard_texts": ["a hill", "a sea"]}]]
    expected = two_paths(images=picture, hierarchies=["word " * 100], regions=regions)
    batch = loaded(images=picture, hierarchies=["word " * 100], regions=regions)
    assert expected.keys() == batch.keys()
    assert all(torch.equal(expected[name], batch[name]) for name in expected)
    assert batch["boxes"].tolist() == [pytest.approx([0.1, 0.1, 1, 1])]


@pytest.fixture
def fg_clip_dir(golden_dir, tiny_processor, tmp_path):
    """As their repository lies on the Hub: their config, CLIP's tokenizer and image processor."""
    path = tmp_path / "fg_clip"
    path.mkdir()
    config = json.loads((golden_dir / "fg_clip_grid4/config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_fgclip.FGCLIPModel"}
    (path / "config.json").write_text(json.dumps(config))
    tiny_processor.tokenizer.save_pretrained(path)
    tiny_processor.image_processor.save_pretrained(path)
    return path


def assert_is_fg_clips(processor):
    assert (processor.max_length, processor.short_max_length) == (248, 77)
    image = Image.new("RGB", (90, 30), "blue")
    ImageDraw.Draw(image).rectangle((0, 0, 9, 29), fill="red")  # a centre crop would not show it
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32) and pixels[0, 0, 16, 0] > 1 > 0 > pixels[0, 0, 16, 16]


def test_fg_clips_own_directory_is_squashed_and_has_two_paths(fg_clip_dir, tmp_path):
    processor = BetaCLIPProcessor.from_pretrained(fg_clip_dir)
    assert_is_fg_clips(processor)
    assert BetaCLIPProcessor.from_pretrained(fg_clip_dir, short_max_length=50).short_max_length == 50
    processor.save_pretrained(tmp_path / "ours")
    assert_is_fg_clips(BetaCLIPProcessor.from_pretrained(tmp_path / "ours"))
    processor.save_pretrained(fg_clip_dir)  # their layout, written by us
    assert_is_fg_clips(BetaCLIPProcessor.from_pretrained(fg_clip_dir))


def test_fg_clip_is_known_by_its_hub_id_too(fg_clip_dir, tmp_path):
    """From a cache as huggingface_hub lays it out."""
    repository, commit = tmp_path / "cache/models--someone--fg-clip", "0" * 40
    shutil.copytree(fg_clip_dir, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    assert_is_fg_clips(BetaCLIPProcessor.from_pretrained("someone/fg-clip", cache_dir=str(tmp_path / "cache")))


@pytest.mark.parametrize("change", [{"architectures": ["CLIPModel"]}, {"architectures": None}, {"model_type": "x"}])
def test_plain_clip_is_not_taken_for_fg_clip(fg_clip_dir, change):
    config = json.loads((fg_clip_dir / "config.json").read_text())
    (fg_clip_dir / "config.json").write_text(json.dumps({**config, **change}))
    processor = BetaCLIPProcessor.from_pretrained(fg_clip_dir)
    assert processor.short_max_length is None
    assert processor.image_processor.do_center_crop
    (fg_clip_dir / "config.json").unlink()
    assert BetaCLIPProcessor.from_pretrained(fg_clip_dir).short_max_length is None


REGIONS = [
    [
        {"box": [0, 0, 20, 30], "text": "a red cube", "hard_texts": ["a red cube", "a blue cube", "a red ball"]},
        {"box": [20, 30, 40, 60], "text": "“a” ball"},
    ],
    [],
    [{"box": [0, 0, 25, 60], "text": "a tree", "hard_texts": ["one tree", "two trees"]}],
]


def test_regions_become_flat_tensors(two_paths):
    batch = two_paths(images=images(3), hierarchies=HIERARCHIES, regions=REGIONS)
    expected = torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.5, 1]])
    assert batch["boxes"].dtype == torch.float32
    torch.testing.assert_close(batch["boxes"], expected)
    assert batch["region_image_index"].tolist() == [0, 0, 2]
    assert batch["hard_region_index"].tolist() == [0, 0, 0, 2, 2]
    integers = [name for name, tensor in batch.items() if tensor.dtype == torch.int64]
    assert set(batch) - set(integers) == {"pixel_values", "boxes"}

    def texts(name):
        decoded = two_paths.batch_decode(batch[name], skip_special_tokens=True)
        assert batch[name].shape == batch[name.replace("input_ids", "attention_mask")].shape
        return [text.replace(" ", "") for text in decoded]

    assert texts("region_input_ids") == ["aredcube", '"a"ball', "atree"]
    assert texts("hard_input_ids") == ["aredcube", "abluecube", "aredball", "onetree", "twotrees"]
    without = two_paths(images=images(3), hierarchies=HIERARCHIES)
    assert set(batch) - set(without) == {
        "boxes", "region_image_index", "region_input_ids", "region_attention_mask",
        "hard_input_ids", "hard_attention_mask", "hard_region_index",
    }  # fmt: skip
    assert all(torch.equal(without[name], batch[name]) for name in without)


def test_no_regions_and_no_hard_texts_are_tensors_without_rows(two_paths):
    shapes = {"boxes": (0, 4), "region_image_index": (0,), "region_input_ids": (0, 1), "region_attention_mask": (0, 1)}
    hard = {"hard_region_index": (0,), "hard_input_ids": (0, 1), "hard_attention_mask": (0, 1)}
    full = two_paths(images=images(3), hierarchies=HIERARCHIES, regions=REGIONS)
    batch = two_paths(images=images(3), hierarchies=HIERARCHIES, regions=[[], [], []])
    assert {name: tuple(batch[name].shape) for name in (*shapes, *hard)} == {**shapes, **hard}
    assert {name: tensor.dtype for name, tensor in batch.items()} == {name: full[name].dtype for name in full}
    regions = [[{"box": [0, 0, 1, 1], "text": "a", "hard_texts": []}], [], []]
    batch = two_paths(images=images(3), hierarchies=HIERARCHIES, regions=regions)
    assert {name: tuple(batch[name].shape) for name in hard} == hard
    assert len(batch["boxes"]) == 1


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"text": "a"}, r"regions\[0\]\[1\]\.box must be four finite numbers, but is None"),
        ({"box": [1, 2, 3], "text": "a"}, r"box must be four finite numbers, but is \[1, 2, 3\]"),
        ({"box": [1, 2, 3, float("nan")], "text": "a"}, r"box must be four finite numbers"),
        ({"box": "left", "text": "a"}, r"box must be four finite numbers, but is left"),
        ({"box": [9, 2, 3, 4], "text": "a"}, r"box must have x1 <= x2 and y1 <= y2 \(xyxy_pixels\), but is \[9"),
        ({"box": [0, 0, 9, 9], "text": "&nbsp;"}, r"regions\[0\]\[1\]\.text must be a text that is not empty"),
        ({"box": [0, 0, 9, 9]}, r"regions\[0\]\[1\]\.text must be a text that is not empty, but is None"),
        ({"box": [0, 0, 9, 9], "text": "a", "hard_texts": ["a", ""]}, r"hard_texts must be a text that is not empty"),
    ],
)
def test_a_wrong_region_is_named(tiny_processor, region, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(images=images(1), hierarchies=["a"], regions=[[REGIONS[0][0], region]])


def test_wrong_formats_of_boxes_are_named(tiny_processor):
    def call(box, box_format):
        return tiny_processor(
            images=images(1), hierarchies=["a"], regions=[[{"box": box, "text": "a"}]], box_format=box_format
        )

    with pytest.raises(ValueError, match=r"must be shares of the image's sides, in \[0, 1\], but is \[0\.0, 0\.0, 20"):
        call([0, 0, 20, 30], "xyxy_normalized")
    with pytest.raises(ValueError, match=r"must have x1 <= x2 and y1 <= y2 \(xywh_pixels\)"):
        call([5, 5, -2, 3], "xywh_pixels")
    with pytest.raises(ValueError, match=r"box_format must be one of .*, but is 'xyxy'"):
        call([0, 0, 20, 30], "xyxy")
    assert call([0, 0, 1.005, 1], "xyxy_normalized")["boxes"].max() == 1


def test_regions_need_their_images(tiny_processor):
    with pytest.raises(ValueError, match="regions must be a list per image, but are 1 for 3 images"):
        tiny_processor(images=images(3), hierarchies=HIERARCHIES, regions=REGIONS[:1])
    with pytest.raises(ValueError, match="regions must be a list per image, but are 3 for 0 images"):
        tiny_processor(hierarchies=HIERARCHIES, regions=REGIONS)
    with pytest.raises(ValueError, match="regions must come with hierarchies"):
        tiny_processor(images=images(3), regions=REGIONS)
    with pytest.raises(ValueError, match="size must be the image processor's own where boxes follow it, but is given"):
        tiny_processor(images=images(3), hierarchies=HIERARCHIES, regions=REGIONS, size={"height": 16, "width": 16})


def test_wrong_input_is_named(tiny_processor):
    with pytest.raises(ValueError, match="hierarchies must be one per image, but are 3 for 2 images"):
        tiny_processor(images=images(2), hierarchies=HIERARCHIES)
    with pytest.raises(ValueError, match="only one of text and hierarchies"):
        tiny_processor(text=["a"], hierarchies=HIERARCHIES)
    with pytest.raises(ValueError, match="but a caption of image 1 is"):
        tiny_processor(hierarchies=["fine", "  "])
    with pytest.raises(ValueError, match="hierarchies must hold at least one"):
        tiny_processor(hierarchies=[])
