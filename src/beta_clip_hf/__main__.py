"""`python -m beta_clip_hf` is `beta-clip`."""

from beta_clip_cli.ending import end_process
from beta_clip_cli.main import main


if __name__ == "__main__":
    end_process(main())
