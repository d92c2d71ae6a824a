"""The learning rates of the two parameter groups against the formula, written out."""

import math

import pytest

from beta_clip_hf.training.schedule import cosine_factor
from training.tiny_runs import Spy, new_trainer


def test_cosine_to_the_end_value():
    factors = [cosine_factor(step, total_steps=100, end_factor=0.01) for step in range(101)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx((1 + 0.01) / 2)
    assert factors[25] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[100] == pytest.approx(0.01)
    assert factors == sorted(set(factors), reverse=True)


def test_warmup_then_the_whole_cosine():
    factors = [cosine_factor(step, total_steps=14, warmup_steps=4, end_factor=0.1) for step in range(15)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factors[9] == pytest.approx(0.55)
    assert factors[14] == pytest.approx(0.1)


def test_degenerate_schedules():
    assert cosine_factor(0, total_steps=0, end_factor=0.3) == 0.3
    assert cosine_factor(7, total_steps=5, end_factor=0.3) == pytest.approx(0.3)
    assert cosine_factor(3, total_steps=10, end_factor=1.0) == pytest.approx(1.0)
    assert cosine_factor(2, total_steps=3, warmup_steps=3, end_factor=0.5) == 1.0


@pytest.mark.slow
def test_rates_of_a_run(tiny_config, tmp_path):
    seen = []

    def note(state, model, optimizer):
        seen.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    trainer = new_trainer(tiny_config, tmp_path, callbacks=[Spy(note)], warmup_steps=2)
    trainer.train()
    for step, rates in enumerate(seen, start=1):  # the scheduler has moved on by the end of a step
        half = 0.5 * (1 + math.cos(math.pi * max(0, step - 2) / 4))
        assert rates["towers"] == pytest.approx(1e-3 if step < 3 else 1e-4 + 9e-4 * half)
        assert rates["pooler"] == pytest.approx(1e-3 + 9e-3 * 0.5 * (1 + math.cos(math.pi * step / 6)))
    assert seen[-1] == pytest.approx({"towers": 1e-4, "pooler": 1e-3})
    first, second = trainer.state.log_history[:2]
    assert first["learning_rate"] == pytest.approx(0.5e-3)  # the first step of two of warm-up
    assert second["learning_rate"] == pytest.approx(1e-3)
    assert second["pooler_learning_rate"] == pytest.approx(1e-3 + 9e-3 * 0.5 * (1 + math.cos(math.pi / 6)))
