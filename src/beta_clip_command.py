"""Where `beta-clip` starts: its pages of help come up without the seconds that importing torch takes."""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec


def main() -> int:
    """
    `beta_clip_hf.cli.main`. Importing it would run the package's `__init__` first, which registers the model with
    transformers; that is put off until a command is chosen (`beta_clip_hf.cli` does it).
    """
    spec = find_spec("beta_clip_hf")
    if spec is None:
        raise ModuleNotFoundError("beta_clip_hf must be installed, but is not")
    sys.modules.setdefault("beta_clip_hf", module_from_spec(spec))
    return import_module("beta_clip_hf.cli").main()
