"""The media of a dataset alone, each different one once: what a codec learns from and is measured on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omniform.data.dataset import Dataset
from omniform.data.document import Media
from omniform.data.loader import OnBadMedia, Order, ViewCache, prefetched, views_for
from omniform.data.media import size_of
from omniform.data.processor import MediaItem
from omniform.data.stored import MediaError
from omniform.parts import Codec, Views


@dataclass(frozen=True)
class Pool:
    """Media of one codec's modality.

    Attributes:
        views: how a medium of any extent becomes one of the codec's.
        names: id of the document that each comes from.
    """

    codec: Any
    views: Views
    media: tuple[Media, ...]
    names: tuple[str, ...]
    cache: ViewCache = field(default_factory=ViewCache, compare=False)

    @staticmethod
    def of(dataset: Dataset, codec: Codec, views: Views, limit: int | None = None) -> Pool:
        """The first medium of the modality of every document; at most `limit` different ones."""
        found: dict[str, tuple[Media, str]] = {}
        for number in range(len(dataset)):
            document = dataset[number]
            own = [m for m in document.media if m.modality == codec.modality][:1]
            found.update({m.key: (m, document.id) for m in own if m.key not in found})
            if limit is not None and len(found) >= limit:
                break
        return Pool(codec, views, tuple(m for m, _ in found.values()), tuple(name for _, name in found.values()))

    def __len__(self) -> int:
        return len(self.media)

    def read(self, number: int) -> Tensor:
        """One medium at the codec's extent, as its module's `normalise` takes it: 8-bit pictures (3, height, width), or
        waveforms (1, samples).

        Raises:
            MediaError: it cannot be read.
        """
        return self.cache.get(self.media[number].key, lambda: _read(self.media[number], self.codec, self.views))


def _read(medium: Media, codec: Any, views: Views) -> Tensor:
    plan = views.plan(size_of(medium), codec.sight(lambda view: (codec.codes(codec.extent(view)),)))
    return views_for(codec, MediaItem(codec.modality, medium, plan, np.arange(0)))[0]


@dataclass(frozen=True)
class MediaStep:
    """The media of one optimizer step.

    Attributes:
        media: (n, ...) stacked.
        renew: whether unused entries of the codebook are to be moved first.
        positions: codes of all media.
    """

    media: Tensor
    renew: bool
    positions: int
    skipped_media: int = 0
    problem: str = ""
    truncated: int = 0

    @property
    def documents(self) -> int:
        return len(self.media)

    @property
    def weight(self) -> float:
        return float(len(self.media))


@dataclass(frozen=True)
class PoolLoader:
    """Steps over the media of a pool.

    Attributes:
        renew: unused entries are moved every so many steps; 0 is never.
        renew_until: step from which on they are left alone.
    """

    pool: Pool
    order: Order
    renew: int = 0
    renew_until: int = 0
    on_bad_media: OnBadMedia = "stop"

    @staticmethod
    def batches(pool: Pool, batch: int, seed: int) -> Order:
        """The order of a pool's media."""
        return Order(tuple((number,) for number in range(len(pool))), batch, seed)

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def steps(self, start: int, stop: int) -> Generator[MediaStep, None, None]:
        """Steps [start, stop) counted over all epochs, prepared in a thread of their own."""
        return prefetched(lambda: self._steps(start, stop))

    def _steps(self, start: int, stop: int) -> Iterator[MediaStep]:
        for step, numbers in self.order.between(start, stop):
            due = self.renew > 0 and step < self.renew_until and step % self.renew == 0
            yield self.step(numbers, renew=due)

    def step(self, numbers: Sequence[int], *, renew: bool = False) -> MediaStep:
        """Media by number.

        Raises:
            MediaError: one of them cannot be read, and none is to be skipped.
        """
        read: list[Tensor] = []
        problem = ""
        for one in numbers:
            try:
                read.append(self.pool.read(one))
            except MediaError as error:
                if self.on_bad_media == "stop":
                    raise
                problem = str(error)
        media = torch.stack(read) if read else torch.empty(0, *self.pool.codec.size)
        codes = len(read) * self.pool.codec.codes(self.pool.codec.size)
        return MediaStep(media, renew, codes, len(numbers) - len(read), problem)
