"""Sound as one view of its own length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from omniform.geometry import Flat, MediaSize, Plan, View, flat_rows
from omniform.parts import Sight, Views
from omniform.views.windows import heard


@dataclass(frozen=True, kw_only=True)
class Whole(Views):
    """The whole sound at the rate of what hears it, however long it is; a codec that hears less at once cuts it itself.

    Attributes:
        mix: which channel is heard: the first, or the mean of all.
    """

    mix: Literal["first", "mean"] = "mean"

    def plan(self, media: MediaSize, sight: Sight) -> Plan:
        steps, samples = heard(self, media, sight, self.mix)
        rows = flat_rows(sight.cells((1, samples)))
        return Plan(views=(View(steps),), size=(1, samples), blocks=(Flat(0, rows),))
