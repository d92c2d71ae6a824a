"""The learning rate of each parameter group: warm-up, then a cosine from the group's rate to its end value."""

import math
from collections.abc import Callable
from functools import partial


def cosine_factor(step: int, *, total_steps: int, warmup_steps: int = 0, end_factor: float = 0.0) -> float:
    r"""
    What the base rate is multiplied by at optimiser step `step` (0 is the first).

    ```
    step < w :  (step + 1) / w                                      w = warmup_steps, the first step is not wasted on 0
    then     :  e + (1 − e) · ½ (1 + cos(π (step − w) / (N − w)))   e = end_factor, N = total_steps
    ```

    Args:
        step (`int`): the optimiser step; beyond `total_steps` the rate stays at its end.
        total_steps (`int`): N. The end value is reached after the last step.
        warmup_steps (`int`): w.
        end_factor (`float`): end rate / base rate; 1 is a constant rate.

    Returns:
        The factor. Without a single step to decay over it is `end_factor`.

    Source: method of arXiv 2512.12678: cosine per step with an end value, warm-up of the towers.

    >>> [round(cosine_factor(step, total_steps=4, end_factor=0.1), 3) for step in range(5)]
    [1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)) if step < total_steps else 1.0
    return end_factor + (1 - end_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine_schedule(rate: float, end_rate: float, *, total_steps: int, warmup_steps: int = 0) -> Callable[[int], float]:
    """[`cosine_factor`] from `rate` to `end_rate`, as the function of the step that `LambdaLR` takes; 0 stays 0."""
    end_factor = end_rate / rate if rate else 0.0
    # A partial has no state to save: a resumed run follows the schedule of its own arguments.
    return partial(cosine_factor, total_steps=total_steps, warmup_steps=warmup_steps, end_factor=end_factor)


__all__ = ["cosine_factor", "cosine_schedule"]
