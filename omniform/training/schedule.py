"""Learning rate as a pure function of the step."""

from __future__ import annotations

from math import ceil, cos, pi
from typing import Literal


def factor(schedule: Literal["cosine", "linear", "constant"], step: int, total: int, warmup: float) -> float:
    """What the peak learning rate is multiplied with at a step.

    It rises linearly over the first ceil(warmup * total) steps, of which the last has the peak, and then falls to
    0 (which the step after the last would have) or stays.

    Args:
        step: 0 for the first step.
        total: steps of the stage.
        warmup: fraction of the steps.
    """
    rising = ceil(warmup * total)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    progress = (step - rising) / max(1, total - rising)
    return 0.5 * (1 + cos(pi * progress)) if schedule == "cosine" else 1 - progress
