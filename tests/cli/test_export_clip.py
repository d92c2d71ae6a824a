"""The words of `beta-clip export clip`."""

from beta_clip_cli import export_clip
from beta_clip_hf.model.configuration_beta_clip import TEXT_PATHS


def test_the_paths_of_the_help_are_those_of_the_library():
    assert export_clip.TEXT_PATHS == TEXT_PATHS
