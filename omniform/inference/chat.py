"""A conversation whose keys and values, or state, stay in the cache, so that a turn costs only what is new."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import torch

from omniform.data.document import Document, Media, Segment, Signal, Text
from omniform.data.packing import pack
from omniform.data.processor import MediaItem, Sample
from omniform.inference.engine import GREEDY, Engine
from omniform.inference.memory import Cache, Read, memory_of
from omniform.inference.rows import Answer
from omniform.inference.sampling import GenerationConfig


class Chat:
    """Turns about a growing list of words and media.

    Every answer is what the engine gives to the whole document from scratch: keys and values are kept as far as the
    new prompt begins with what was read before, and computed from the first position that differs; a state is kept
    where the new prompt begins with all that was read.

    Attributes:
        document: all turns so far; a turn counts once its answer is complete.
    """

    def __init__(self, engine: Engine, config: GenerationConfig = GREEDY, *, system: str | None = None) -> None:
        self.engine = engine
        self.config = config
        self.document = Document((Text(system, "system"),) if system else ())
        self._kept: tuple[Cache, Sample] | None = None

    def ask(self, text: str, **media: Signal) -> Answer:
        """The answer to one more turn: `chat.ask("What is this?", image="cat.png")`.

        Raises: as `Engine.generate`; the conversation is then as it was before.
        """
        turn = self.stream(*(Media(modality, source) for modality, source in media.items()), Text(text))
        while True:
            try:
                next(turn)
            except StopIteration as end:
                return end.value

    def stream(self, *segments: Segment) -> Generator[Segment, None, Answer]:
        """Segments of the answer to one more turn as they complete. Returns the answer.

        A turn that is given up before its end leaves no trace in the document.

        Raises: as `Engine.generate`, before the first segment.
        """
        asked = replace(self.document, segments=(*self.document.segments, *segments))
        sample = self.engine.sample(asked)
        row = self.engine.row(sample, self.config, self.engine.ending(self.config), pieces=True)
        read = self._read(sample)
        try:
            yield from self.engine.watch(row, read, self.config)
        finally:  # a single row stays where it is, so the cache has grown by what was decoded
            self._kept = read.cache, sample.followed_by(row.tokens).span(0, read.cache.columns)
        said = row.answer().segments or (Text("", "assistant"),)
        self.document = replace(asked, segments=(*asked.segments, *said))
        return row.answer()

    def _read(self, sample: Sample) -> Read:
        """Read what the cache does not hold yet."""
        kept, self._kept = self._kept, None  # an interruption leaves nothing that may be half written
        start = common_length(kept[1], sample) if kept else 0
        if kept is None or not kept[0].keep(start):
            return self.engine.prefill([sample])
        return self._extend(kept[0], sample, start)

    @torch.inference_mode()
    def _extend(self, cache: Cache, sample: Sample, start: int) -> Read:
        """Read the positions of a sample from `start` on top of the cache."""
        model, device = self.engine.model, self.engine.device
        # what media out of sequence mean for the new positions follows from the whole
        again = 0 if any(item.anchor is not None for item in sample.media) else start
        batch = pack([sample.span(again, len(sample))], self.engine.load).to(device)
        embeds, fused = model.embed(batch)
        new = torch.arange(start - again, len(embeds), device=device)
        more = {"fused": fused.at(new[None])} if fused else {}
        hidden = model.backbone.step(embeds[None, new], batch.positions[..., new].unsqueeze(-2), None, cache, **more)
        memory = memory_of(model.system.backbone)
        return memory.alone(hidden[0, -1:], cache, len(sample), batch, fused)


def common_length(kept: Sample, new: Sample) -> int:
    """Leading positions that two samples share; the new one keeps at least one of its own, and media stay whole.

    A prompt that an encoder reads is another one as soon as a word follows it: nothing is shared.
    """
    if kept.prompt or new.prompt:
        return 0
    length = min(len(kept), len(new) - 1)
    differs = np.flatnonzero(kept.ids[:length] != new.ids[:length])
    length = int(differs[0]) if len(differs) else length
    for old, now in zip_longest(kept.media, new.media):
        same = old is not None and now is not None and _equal(old, now)
        for item in (old, now):
            if item is not None and item.first < length and not (same and item.last < length):
                length = item.first
    return length


def _equal(one: MediaItem, other: MediaItem) -> bool:
    return (
        one.media.key == other.media.key
        and one.plan == other.plan
        and one.first == other.first
        and np.array_equal(one.at, other.at)
    )
