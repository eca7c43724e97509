"""Codes of media that enter as tokens, computed once for each medium."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from omniform.data.loader import views_for
from omniform.data.processor import Ids, MediaItem
from omniform.model import Lmm


class Coder:
    """Encodes media with a model's codecs; what `Processor(encode=...)` takes.

    Codes are kept by medium and plan, the oldest dropped first.

    Args:
        limit: media whose codes are kept.
    """

    def __init__(self, model: Lmm, limit: int = 100_000) -> None:
        self.model = model
        self.limit = limit
        self._kept: dict[object, Ids] = {}

    def __call__(self, item: MediaItem) -> Ids:
        """Codes of one medium.

        Raises:
            MediaError: it cannot be read.
        """
        key = item.media.key, item.plan
        if key not in self._kept:
            self._kept[key] = self._encode(item)
            while len(self._kept) > self.limit:
                self._kept.pop(next(iter(self._kept)))
        return self._kept[key]

    @torch.inference_mode()
    def _encode(self, item: MediaItem) -> Ids:
        codec: Any = self.model.codecs[item.modality]
        views = views_for(codec.spec, item).to(next(codec.parameters()).device)
        each = codec.encode(codec.normalise(views)) if codec.spec.counted else codec.encode_each(views)
        return torch.cat(list(each)).cpu().numpy().astype(np.int64)
