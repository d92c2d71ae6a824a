"""Names of columns: renamed, and told where they are missing."""

import pytest

from beta_clip_hf.data.columns import check_columns, rename_columns


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (["img", "text"], ["'img', 'text'", '"img": "image"', '"text": "caption"']),
        (["image", "description"], ['"description": "caption"']),
        (["caption"], ["'caption'", '"your image column": "image"']),
    ],
)
def test_wrong_columns_are_named_with_the_way_to_rename_them(columns, named):
    with pytest.raises(ValueError, match=r"train\.jsonl must have") as error:
        check_columns(columns, "train.jsonl")
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize("caption", ["caption", "captions", "conversations"])
@pytest.mark.parametrize("image", ["image", "file_name"])
def test_columns_that_suffice(image, caption):
    check_columns([image, caption], "here")


def test_rename_columns_lets_the_old_owner_of_a_name_go():
    renamed = rename_columns({"caption": "old", "text": "new", "image": 1}, {"text": "caption"})
    assert renamed == {"caption": "new", "image": 1}
