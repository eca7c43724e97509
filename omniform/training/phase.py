"""One phase of training, whatever learns in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How long one phase of training is, and how its steps are made; attributes as in the recipe schema."""

    name: str
    data: str
    batch: int
    epochs: float | None
    steps: int | None
    schedule: Literal["cosine", "linear", "constant"]
    warmup: float
    weight_decay: float
    clip_norm: float

    def total_steps(self, per_epoch: int) -> int:
        """Optimizer steps, for a dataset of so many steps per epoch."""
        return self.steps if self.steps is not None else max(1, round((self.epochs or 1) * per_epoch))
