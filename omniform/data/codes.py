"""Codes of media that enter as tokens, computed once for each medium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniform.data.media import frames_of, views_of
from omniform.data.processor import Ids, MediaItem
from omniform.model import Lmm


class Coder:
    """Encodes media with a model's codecs; what `Processor(encode=...)` takes.

    Codes are kept by medium and plan, the oldest dropped first.

    Args:
        load: reads a medium where that is not for PIL (sound): its waveform, (samples,).
        limit: media whose codes are kept.
    """

    def __init__(self, model: Lmm, load: Callable[[MediaItem], Tensor] | None = None, limit: int = 100_000) -> None:
        self.model = model
        self.load = load
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
        if not item.plan.views:
            return self._encode_sound(codec, item)
        views = views_of(frames_of(item.media), item.plan, codec.spec.resample)
        device = next(codec.parameters()).device
        return codec.encode(codec.normalise(views.to(device))).flatten().cpu().numpy().astype(np.int64)

    def _encode_sound(self, codec: Any, item: MediaItem) -> Ids:
        if self.load is None:
            raise ValueError(f"{item.media.name}: give Coder(load=...) to read {item.modality}")
        codes = codec.encode(self.load(item)[None].to(next(codec.parameters()).device))[0]
        if not codec.spec.counted:
            codes, _ = codec.merged(codes)
        return codes.cpu().numpy().astype(np.int64)
