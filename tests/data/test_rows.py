"""Rows: every wrong field is named, and what a row has is found."""

import pytest

from beta_clip_hf.data.rows import check_row, row_id


BUILT = {"sentences": ["A cat."], "phrases": ["A cat"], "phrase_sentences": [0], "phrase_kinds": ["noun"]}


def row(**fields):
    return {"image": "cat.jpg", "caption": "A cat sleeps.", **fields}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": None}, "image must be there"),
        ({"caption": ""}, "caption must be a string that is not empty, but is ''"),
        ({"caption": " \n"}, "caption must be"),
        ({"caption": None}, "caption must be a string that is not empty, but is missing"),
        ({"caption": 7}, "caption must be a string that is not empty, but is 7"),
        ({"caption": ["A cat."]}, 'rename it with columns={"caption": "captions"}'),
        ({"captions": "A cat."}, "captions must be a list, but is 'A cat.'"),
        ({"captions": []}, "captions must not be empty"),
        ({"captions": [" ", ""]}, "captions must have a text that is not empty, but is [' ', '']"),
        ({"sentences": "A cat."}, "sentences must be a list"),
        ({"phrases": {"text": "cat"}}, "phrases must be a list"),
        ({"phrases": ["cat", None]}, "phrases[1] must be a string that is not empty, but is missing"),
        ({"phrases": [{"boxes": []}]}, "phrases[0].text must be"),
        ({"phrases": [{"text": "cat", "boxes": [1, 2, 3, 4]}]}, "phrases[0].boxes[0] must be [x1, y1, x2, y2]"),
        ({"phrases": [{"text": "cat", "boxes": [[1, 2, 3]]}]}, "phrases[0].boxes[0] must be"),
        ({"phrases": [{"text": "cat", "boxes": [[0, 0, 1, 1], [3, 2, 1, 4]]}]}, "phrases[0].boxes[1] must be"),
        ({"phrases": [{"text": "cat", "boxes": [[0, 0, float("nan"), 4]]}]}, "phrases[0].boxes[0] must be"),
        ({"phrases": [{"text": "cat", "boxes": [["0", 0, 1, 4]]}]}, "phrases[0].boxes[0] must be"),
        ({"phrases": [{"text": "cat", "sentence": -1}]}, "phrases[0].sentence must be the index"),
        ({"phrase_sentences": [0]}, "sentences, phrases, phrase_kinds must be there beside phrase_sentences"),
        ({**BUILT, "phrase_sentences": ["0"]}, "phrase_sentences[0] must be the index of a sentence, but is '0'"),
        ({**BUILT, "phrase_sentences": 0}, "phrase_sentences must be a list"),
        ({**BUILT, "phrase_kinds": [None]}, "phrase_kinds[0] must be a string"),
        ({"short_caption": ""}, "short_caption must be"),
        ({"regions": ["cat"]}, "regions[0] must have a box and a text"),
        ({"regions": [{"text": "cat"}]}, "regions[0].box must be"),
        (
            {"regions": [{"text": "cat", "box": [0, 0, 1, 1], "negatives": "dog"}]},
            "regions[0].negatives must be a list",
        ),
        (
            {"regions": [{"text": "cat", "box": [0, 0, 1, 1], "negatives": ["dog", " "]}]},
            "regions[0].negatives[1] must be a string that is not empty",
        ),
        ({"regions": [{"text": "cat", "box": [0, 0, 1, 1], "long_text": ""}]}, "regions[0].long_text must be a string"),
        ({"regions": [{"text": "cat", "box": [0, 0, 1, 1]}, {"box": [0, 0, 1, 1]}]}, "regions[1].text must be"),
        ({"regions": [{"text": "cat", "box": [5, 0, 1, 1]}]}, "regions[0].box must be [x1, y1, x2, y2] with x1 <= x2"),
        ({"regions": [{"text": "cat", "box": [0, 0, float("inf"), 1]}]}, "regions[0].box must be"),
        ({"regions": [{"text": "cat", "box": [0, float("-inf"), 1, 1]}]}, "regions[0].box must be"),
        ({"regions": [{"text": "cat", "box": ["a", "b", "c", "d"]}]}, "regions[0].box must be"),
        ({"box_format": "xywh"}, "box_format must be one of ('xyxy_normalized', 'xyxy_pixels'), but is 'xywh'"),
        (
            {"caption": None, "conversations": [{"from": "human", "value": "?"}]},
            'conversations must have a turn from "gpt"',
        ),
    ],
)
def test_a_bad_field_is_named(fields, message):
    with pytest.raises(ValueError) as error:
        check_row(row(**fields))
    assert message in str(error.value)


def test_a_row_with_everything_passes_untouched():
    full = row(
        captions=["A cat sleeps.", "It is black."],
        sentences=["A cat sleeps."],
        phrases=["a cat", {"text": "black", "boxes": [[0, 0, 1.5, 2]], "sentence": 1, "kind": "noun"}],
        short_caption="a cat",
        regions=[
            {"box": [3, 0, 3, 1], "text": "a paw", "negatives": ["a tail"]},  # zero width, as in FG-OVD
            {"box": [0, 0, 640, 480], "text": "a cat", "long_text": "a black cat that sleeps", "negatives": []},
        ],
        box_format="xyxy_pixels",
        width=640,
        height=480,
        licence="CC0",
    )
    assert check_row(full) == full


def test_none_is_absent_and_captions_are_joined():
    assert check_row(row(caption=None, captions=["A cat.", "It sleeps."], phrases=None)) == {
        "image": "cat.jpg",
        "captions": ["A cat.", "It sleeps."],
        "caption": "A cat. It sleeps.",
    }


def test_the_caption_of_a_conversation_is_the_answer():
    turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "A cat."}]
    assert check_row({"image": "x", "conversations": turns}) == {"image": "x", "caption": "A cat."}
    assert check_row(row(conversations=turns))["caption"] == "A cat sleeps."


def test_row_id_is_its_own_or_that_of_its_texts():
    assert row_id({"id": 7}) == "7"
    assert row_id(row()) == row_id({**row(), "image": "dog.jpg"})
    assert row_id(row()) != row_id(row(caption="A dog."))
