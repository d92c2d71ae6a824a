"""β-CLIP as a Hugging Face Space: the page of `beta-clip demo`, for a model on the Hub."""

import atexit
import os
from contextlib import ExitStack

from beta_clip_hf.demo.app import open_page


stack = ExitStack()
atexit.register(stack.close)
page = stack.enter_context(open_page(model=os.environ.get("MODEL"), photos=os.environ.get("PHOTOS")))
demo = page.blocks

if __name__ == "__main__":
    from beta_clip_hf.demo.page import launch

    # A Space is reached from outside.
    launch(page, host="0.0.0.0", port=7860)
    demo.block_thread()
