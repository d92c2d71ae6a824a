"""The words of `beta-clip push`."""

from beta_clip_cli import push
from beta_clip_hf.release.model_card import UNKNOWN_LICENCE


def test_the_default_licence_of_the_help_is_that_of_the_library():
    assert push.UNKNOWN_LICENCE == UNKNOWN_LICENCE
