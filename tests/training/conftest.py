"""Models that trainings start from."""

import pytest

from training.siglip2_recipes import save_siglip2


@pytest.fixture(scope="session")
def siglip2(tmp_path_factory):
    """A tiny plain SigLIP 2 with its processor; read it, never write into it."""
    return save_siglip2(tmp_path_factory.mktemp("siglip2"))
