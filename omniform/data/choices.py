"""Cells that an encoder keeps of each medium, chosen once for each: what a plan needs beyond the medium's size."""

from __future__ import annotations

from typing import Any

import torch

from omniform.data.loader import read_views
from omniform.data.processor import MediaItem
from omniform.model import Lmm

Cells = tuple[tuple[int, ...], ...]
"""For each view the numbers of the cells that are kept, row-major."""


class Chooser:
    """Lets a model's encoder choose; what `Processor(choose=...)` takes.

    Choices are kept by medium and plan, the oldest dropped first.

    Args:
        limit: media whose choices are kept.
    """

    def __init__(self, model: Lmm, limit: int = 100_000) -> None:
        self.model = model
        self.limit = limit
        self._kept: dict[object, Cells] = {}

    def __call__(self, item: MediaItem) -> Cells:
        """Cells of one medium's views.

        Raises:
            MediaError: it cannot be read.
        """
        key = item.media.key, item.plan
        if key not in self._kept:
            self._kept[key] = self._choose(item)
            while len(self._kept) > self.limit:
                self._kept.pop(next(iter(self._kept)))
        return self._kept[key]

    @torch.inference_mode()
    def _choose(self, item: MediaItem) -> Cells:
        encoder: Any = self.model.reader(item.modality).encoder
        views = read_views(item, self.model.system)
        kept = encoder.choose(views.to(next(encoder.parameters()).device)).cpu()
        return tuple(tuple(row.nonzero()[:, 0].tolist()) for row in kept)
