"""`python -m beta_clip_hf` is `beta-clip`."""

import sys

from beta_clip_cli.main import main


if __name__ == "__main__":
    sys.exit(main())
