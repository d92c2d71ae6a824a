"""
Fetches the tests of the installed transformers into the cache that `source.py` reads; `make mixins` runs it.

They are in the sdist on PyPI and not in the wheel. Without a network a message says so, and the tests that need
them are skipped.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from integration.mixins.source import CACHE, cached_tests


def fetch(transformers_version: str) -> None:
    """
    Downloads the sdist of a version and keeps its test files, unless the cache has them.

    Raises:
        subprocess.CalledProcessError: If pip cannot download it.
    """
    folder = cached_tests(transformers_version)
    if folder.is_dir():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that the finished folder is moved in one step: nobody sees half of it.
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        requirement = ["--no-deps", "--no-binary", "transformers", f"transformers=={transformers_version}"]
        # A machine without a network must not wait for many attempts.
        patience = ["--retries", "1", "--timeout", "30"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", *patience, *requirement, "--dest", temporary]
        subprocess.run(pip, check=True)
        (archive,) = Path(temporary).glob("transformers-*.tar.gz")
        with tarfile.open(archive) as sdist:
            tests = [member for member in sdist.getmembers() if Path(member.name).match("transformers-*/tests/*.py")]
            sdist.extractall(temporary, members=tests, filter="data")
        (unpacked,) = Path(temporary).glob("transformers-*/tests")
        folder.parent.mkdir(exist_ok=True)
        unpacked.rename(folder)


if __name__ == "__main__":
    try:
        fetch(version("transformers"))
    except subprocess.CalledProcessError:
        print("transformers' own tests could not be downloaded; the tests in tests/integration/mixins are skipped")
