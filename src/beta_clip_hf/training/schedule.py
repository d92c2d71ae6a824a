"""Learning rate schedules: a warm-up, then a cosine from the rate of a parameter group to its end value."""

import math
from collections.abc import Callable
from functools import partial


def cosine_factor(step: int, *, total_steps: int, warmup_steps: int = 0, end_factor: float = 0.0) -> float:
    r"""
    Computes the factor of the base learning rate at an optimiser step.

    ```
    step < w :  (step + 1) / w
    then     :  e + (1 − e) · ½ (1 + cos(π (step − w) / (N − w)))
    ```

    with w = `warmup_steps`, e = `end_factor` and N = `total_steps`. The warm-up begins above 0, so that the first step
    is not wasted.

    Args:
        step (`int`): the optimiser step; the first is 0. Beyond `total_steps` the factor stays at its end value.
        total_steps (`int`): the number of steps. The end value is reached after the last one.
        warmup_steps (`int`): the number of steps over which the rate rises.
        end_factor (`float`): the end rate divided by the base rate; 1 gives a constant rate.

    Returns:
        The factor. If no step is left after the warm-up, it is `end_factor`.

    Source: method of arXiv 2512.12678: cosine per step with an end value, warm-up of the towers.

    >>> [round(cosine_factor(step, total_steps=4, end_factor=0.1), 3) for step in range(5)]
    [1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = 1.0
    if step < total_steps:
        decay_steps = max(1, total_steps - warmup_steps)
        progress = min(1.0, (step - warmup_steps) / decay_steps)
    return end_factor + (1 - end_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine_schedule(rate: float, end_rate: float, *, total_steps: int, warmup_steps: int = 0) -> Callable[[int], float]:
    """
    Makes the function of the step that `LambdaLR` takes, for a cosine between two learning rates.

    Args:
        rate: The rate after the warm-up. 0 stays 0.
        end_rate: The rate after the last step.
        total_steps, warmup_steps: See [`cosine_factor`].
    """
    end_factor = end_rate / rate if rate else 0.0
    # LambdaLR saves the attributes of a callable object, but nothing of a partial: a resumed run follows the schedule
    # of its own arguments.
    return partial(cosine_factor, total_steps=total_steps, warmup_steps=warmup_steps, end_factor=end_factor)


__all__ = ["cosine_factor", "cosine_schedule"]
