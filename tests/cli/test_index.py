"""The words of `beta-clip index`."""

from beta_clip_cli import arguments, index
from beta_clip_hf.data.readers import FORMATS
from beta_clip_hf.inference.models import DTYPES


def test_the_choices_are_those_of_the_library():
    assert (arguments.FORMATS, index.DTYPES) == (FORMATS, DTYPES)
