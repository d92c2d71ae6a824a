"""A checkpoint that a stranger has written: resuming it runs no code of its files, and says so in one sentence."""

import os
import shutil

import pytest
import torch

from beta_clip_cli.errors import sentence_of
from beta_clip_hf.training.saving.checkpoints import MANIFEST_FILE, seal
from training.tiny_runs import new_trainer


pytestmark = pytest.mark.slow


class Evil:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("has_manifest", [True, False])
def test_resuming_runs_no_code_of_a_checkpoint(has_manifest, tiny_config, tmp_path):
    new_trainer(tiny_config, tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=2).train()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        folder = tmp_path / name / "run"
        shutil.copytree(tmp_path / "run", folder)
        checkpoint, ran = folder / "checkpoint-2", tmp_path / f"{name} ran"
        assert (checkpoint / name).exists()
        torch.save({"state": Evil(ran)}, checkpoint / name)
        (checkpoint / MANIFEST_FILE).unlink()
        if has_manifest:
            # A stranger can write a manifest that fits.
            seal(checkpoint, 2, {})
        trainer = new_trainer(tiny_config, folder, max_steps=3)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        except Exception as error:
            sentence = sentence_of(error, [])
            assert sentence is not None and "\n" not in sentence and len(sentence) < 600, (name, repr(error))
        assert not ran.exists(), name
    # The trap works.
    torch.load(checkpoint / name, weights_only=False)
    assert ran.exists()
