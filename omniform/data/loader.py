"""The order of the data, and batches made ahead of the training step.

The order is a pure function of (seed, epoch): a run can be resumed at any step without replaying anything.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from omniform.batch import Batch
from omniform.codecs.families import AudioCodec
from omniform.data.dataset import Dataset
from omniform.data.media import frames_of, views_of
from omniform.data.packing import likeness, pack
from omniform.data.processor import Aim, MediaItem, Processor, Sample
from omniform.data.sound import samples_of, waveforms_of
from omniform.data.stored import MediaError
from omniform.encoders.audio import AudioEncoder
from omniform.parts import Views
from omniform.prompt import Prompt
from omniform.spec import Discrete, System

OnBadMedia = Literal["stop", "skip"]
StepT = TypeVar("StepT")


@dataclass(frozen=True)
class Order:
    """Batches of document numbers: groups that share media are shuffled as one, then cut into batches."""

    groups: tuple[tuple[int, ...], ...]
    batch: int
    seed: int

    @staticmethod
    def of(dataset: Dataset, batch: int, seed: int) -> Order:
        groups: dict[object, list[int]] = {}
        for i in range(len(dataset)):
            groups.setdefault(dataset.group(i), []).append(i)
        return Order(tuple(map(tuple, groups.values())), batch, seed)

    @property
    def documents(self) -> int:
        return sum(map(len, self.groups))

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.documents // self.batch)

    def epoch(self, number: int) -> list[list[int]]:
        """All batches of one epoch."""
        random = np.random.default_rng((self.seed, number))
        flat = [i for g in random.permutation(len(self.groups)) for i in random.permutation(self.groups[g])]
        return [[int(i) for i in flat[a : a + self.batch]] for a in range(0, len(flat), self.batch)]

    def between(self, start: int, stop: int) -> Iterator[tuple[int, list[int]]]:
        """Steps [start, stop) counted over all epochs: number of each, and its batch."""
        for epoch in range(start // self.steps_per_epoch, -(-stop // self.steps_per_epoch)):
            for step, numbers in enumerate(self.epoch(epoch), epoch * self.steps_per_epoch):
                if start <= step < stop:
                    yield step, numbers

    def at(self, step: int) -> list[int]:
        """The batch of one step."""
        return next(numbers for _, numbers in self.between(step, step + 1))


@dataclass
class Counts:
    """What the loader left out, by reason; shown at the end of a run."""

    skipped_media: int = 0
    truncated: int = 0
    last_problem: str = ""


@dataclass(frozen=True)
class Step:
    """The packed batches of one optimizer step.

    Attributes:
        weight: learned tokens, by their weights.
        told: modality -> codes of media told along with answers, or learned media that signals stand for.
        skipped_media, truncated, problem: what `Counts` gained from this step's documents.
    """

    micro: tuple[Batch, ...]
    documents: int
    positions: int
    weight: float
    skipped_media: int = 0
    truncated: int = 0
    problem: str = ""
    told: Mapping[str, int] = field(default_factory=dict)

    def share(self, output: str, form: str) -> float:
        """What the losses of an output are divided by: codes told along, media regressed, or the tokens learned."""
        return max(self.told.get(output, 0), 1) if form == "continuous" else self.weight


@dataclass
class ViewCache:
    """Views kept in memory, oldest dropped first, so that small datasets are decoded once.

    Attributes:
        limit: bytes kept.
    """

    limit: int = 1 << 30
    _kept: dict[object, Tensor] = field(default_factory=dict)
    _bytes: int = 0

    def get(self, key: object, read: Callable[[], Tensor]) -> Tensor:
        """The views of a key; `read` makes them where they are not kept."""
        if key not in self._kept:
            views = read()
            self._kept[key] = views
            self._bytes += views.nbytes
            while self._bytes > self.limit and len(self._kept) > 1:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
        return self._kept[key]


@dataclass
class Loader:
    """Makes the steps of a stage.

    Attributes:
        max_positions: longest document; longer ones lose words at the end, and are counted.
        pack_positions: most positions of one packed batch; a step is split into several when it needs more.
        on_bad_media: "stop" raises; "skip" leaves the document out and counts it.
        trees: share trunks between documents about the same media.
    """

    dataset: Dataset
    processor: Processor
    order: Order
    prompt: Prompt | None = None
    views: Mapping[str, Views] = field(default_factory=dict)
    max_positions: int = 2048
    pack_positions: int = 16384
    on_bad_media: OnBadMedia = "stop"
    trees: bool = True
    counts: Counts = field(default_factory=Counts)
    cache: ViewCache = field(default_factory=ViewCache)

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    def steps(self, start: int, stop: int) -> Generator[Step, None, None]:
        """Steps [start, stop) counted over all epochs, prepared in a thread of their own."""
        return prefetched(lambda: (self.step(numbers) for _, numbers in self.order.between(start, stop)))

    def step(self, numbers: Sequence[int]) -> Step:
        """The packed batches of some documents."""
        skipped, truncated = self.counts.skipped_media, self.counts.truncated
        samples = sorted((s for s in map(self._sample, numbers) if s is not None), key=likeness)
        skipped, truncated = self.counts.skipped_media - skipped, self.counts.truncated - truncated
        micro = tuple(pack(group, self._load, trees=self.trees) for group in self._split(samples))
        weight = float(sum(b.weights.sum() for b in micro))
        problem = self.counts.last_problem if skipped else ""
        length = sum(b.tree.length for b in micro)
        told: dict[str, int] = {}
        for batch in micro:
            counts = {m: sum(len(medium.codes) for medium in media) for m, media in batch.told.items()}
            for modality, count in (counts | {m: len(s.captions) for m, s in batch.signals.items()}).items():
                told[modality] = told.get(modality, 0) + count
        return Step(micro, len(samples), length, weight, skipped, truncated, problem, told)

    def _sample(self, number: int) -> Sample | None:
        document = self.dataset[number]
        try:
            sample = self.processor.sample(document, prompt=self.prompt, views=self.views)
            for item in (*sample.media, *(aim for aim in sample.aims if aim.plan.views)):
                self._load(item)
        except MediaError as error:
            if self.on_bad_media == "stop":
                raise
            self.counts.skipped_media += 1
            self.counts.last_problem = str(error)
            return None
        sample = sample.cut(self.max_positions)
        self.counts.truncated += sample.truncated > 0
        return sample

    def _load(self, item: MediaItem) -> Tensor:
        return self.cache.get((item.media.key, item.plan), lambda: read_views(item, self.processor.system))

    def _split(self, samples: list[Sample]) -> Iterator[list[Sample]]:
        """Samples in runs whose unshared length stays within `pack_positions`; runs of shared media stay together."""
        run: list[Sample] = []
        length = 0
        for sample in samples:
            shared = run and sample.media and sample.media_keys == run[-1].media_keys
            own = len(sample) - (sample.media[-1].last + 1 if shared and self.trees else 0)
            if run and length + own > self.pack_positions:
                yield run
                run, length, own = [], 0, len(sample)
            run.append(sample)
            length += own
        if run:
            yield run


def read_views(item: MediaItem, system: System) -> Tensor:
    """Views of one medium that the system reads, or that losses see, as `batch.MediaBatch` holds them."""
    if isinstance(item, Aim):
        return views_of(frames_of(item.media), item.plan, "bicubic")
    entry = system.read(item.modality)
    return views_for(entry.codec if isinstance(entry, Discrete) else entry.encoder, item)


def views_for(reader: Any, item: MediaItem) -> Tensor:
    """Views of one medium for a declared encoder or codec."""
    if isinstance(reader, AudioEncoder | AudioCodec):
        return waveforms_of(*samples_of(item.media), item.plan)
    return views_of(frames_of(item.media), item.plan, reader.resample)


def prefetched(make: Callable[[], Iterator[StepT]], ahead: int = 3) -> Generator[StepT, None, None]:
    """The same items, made ahead in a thread; its errors are raised here."""
    items: queue.Queue[StepT | BaseException | None] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: StepT | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return items.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in make():
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)  # a thread that still works when the interpreter ends makes it abort
