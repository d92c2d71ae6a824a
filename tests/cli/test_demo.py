"""The words of `beta-clip demo`."""

import argparse

from beta_clip_cli import demo
from beta_clip_hf.data.scenes.levels import LEVELS
from beta_clip_hf.demo.limits import Limits


def test_the_values_of_the_help_are_those_of_the_library():
    limits = Limits()
    assert tuple(LEVELS) == demo.LEVELS
    assert (limits.upload_mib, limits.megapixels, limits.per_minute) == (demo.MAX_UPLOAD, demo.MAX_PIXELS, demo.RATE)


def test_the_demo_is_private_unless_asked():
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    args = parser.parse_args([])
    assert args.host == "127.0.0.1" and args.share is False and args.model is None
    assert (args.max_upload, args.max_pixels, args.rate) == (10, 40, 120)
