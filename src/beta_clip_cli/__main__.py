"""`python -m beta_clip_cli` is `beta-clip`, also where the script is not on the path."""

from .ending import end_process
from .main import main


if __name__ == "__main__":
    end_process(main())
