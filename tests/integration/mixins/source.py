"""
Imports transformers' own test mixins: those of the very version that is installed.

`make mixins` puts them into a cache: the folder `BETA_CLIP_TEST_CACHE`, or one in the user's cache. Without them, the
tests that need them are skipped.
"""

import ast
import importlib
import os
import re
import sys
import unittest
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest


USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("BETA_CLIP_TEST_CACHE") or USER_CACHE / "beta-clip-hf")
PACKAGE = "tests_of_transformers"
# What the tests import from files that are not in the sdist. Other names become empty classes: mixins for models that
# generate text or are exported, and tests of pipelines, which are replaced.
VALUES_OF_MISSING_FILES = {
    # Read for configurations without sub-configurations only.
    "config_common_kwargs": {},
    # Photos, videos and sounds of the Hub, which the tests used here do not read.
    "url_to_local_path": str,
}


def cached_tests(transformers_version: str) -> Path:
    """Returns where the cache has the tests of a version."""
    return CACHE / f"transformers-{transformers_version}" / "tests"


FOLDER = cached_tests(version("transformers"))


def load(name: str) -> ModuleType:
    """Imports a file of tests, for example "test_modeling_common"; skips the importing module if it is missing."""
    if not FOLDER.is_dir():
        reason = f"{FOLDER} is missing: run `make mixins`, which downloads it"
        pytest.skip(reason, allow_module_level=True)
    if find_spec("parameterized") is None:
        pytest.skip("parameterized is not installed: run `pip install parameterized`", allow_module_level=True)
    import transformers

    package = sys.modules.setdefault(PACKAGE, ModuleType(PACKAGE))
    package.__path__ = [str(FOLDER)]
    _stand_in_for_missing_files(FOLDER / f"{name}.py")
    # The tests would import a second transformers, from sources that are not there.
    with patch("transformers.utils.direct_transformers_import", lambda *_: transformers):
        return importlib.import_module(f"{PACKAGE}.{name}")


def _stand_in_for_missing_files(path: Path) -> None:
    """Makes modules for those that a file of tests imports and the sdist leaves out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        is_missing = node.level == 1 and not (FOLDER / f"{node.module.replace('.', '/')}.py").exists()
        if not is_missing and node.module != "fetch_hub_objects_for_ci":
            continue
        parts = [PACKAGE, *node.module.split(".")] if node.level == 1 else [node.module]
        for end in range(1, len(parts) + 1):
            full_name = ".".join(parts[:end])
            module = sys.modules.setdefault(full_name, ModuleType(full_name))
        for alias in node.names:
            value = VALUES_OF_MISSING_FILES.get(alias.name, type(alias.name, (), {}))
            setattr(module, alias.name, value)


def markers() -> set[str]:
    """Names the markers of transformers' tests, which pytest has to know."""
    (helpers,) = find_spec("transformers").submodule_search_locations
    names = set()
    for path in (*FOLDER.glob("*.py"), Path(helpers) / "testing_utils.py"):
        names.update(re.findall(r"\bmark\.(\w+)", path.read_text(encoding="utf-8")))
    return names


def leaving_out(reasons: dict[str, str]) -> Callable[[type], type]:
    """Makes a decorator for a class of tests: the tests of the table are skipped, each with its reason."""

    def decorate(tests: type) -> type:
        for name, reason in reasons.items():
            # Not every version of transformers has each of them.
            inherited: Any = getattr(tests, name, None)
            if inherited is not None:
                setattr(tests, name, unittest.skip(f"left out: {reason}")(inherited))
        return tests

    return decorate
