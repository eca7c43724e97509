"""Documents: the only thing that users, datasets, evaluation and server exchange.

A document is an ordered list of segments; a segment is text or one piece of media, with a role and a "learn this" flag.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from omniform.frozen import FrozenMap
from omniform.prompt import Turn

Role: TypeAlias = Literal["system", "user", "assistant"]
Signal: TypeAlias = str | Path | bytes | Image.Image | Sequence[Image.Image] | tuple[Any, int]


@dataclass(frozen=True)
class Text:
    """Words of one role; `learn` is whether an assistant's words are predicted in training."""

    text: str
    role: Role = "user"
    learn: bool = True


@dataclass(frozen=True)
class Media:
    """One medium: a path, an http(s) URL, file bytes, a picture, a sequence of pictures (video), or for sound a pair of
    samples (floats with full scale at 1) and samples a second.

    Attributes:
        caption: what it shows, in words, where a model learns to make it; "" is the text before it in its document.
    """

    modality: str
    source: Signal
    role: Role = "user"
    learn: bool = True
    caption: str = ""

    @cached_property
    def key(self) -> str:
        """Equal for media that are the same; what sharing and caching go by."""
        if isinstance(self.source, (str, Path)):
            return f"{self.modality}:{self.source}"
        digest = hashlib.sha1(usedforsecurity=False)
        frames = [self.source] if isinstance(self.source, (bytes, Image.Image)) else list(self.source)
        for frame in frames:
            if isinstance(frame, Image.Image):
                digest.update(f"{frame.mode}{frame.size}".encode() + frame.tobytes())
            else:
                digest.update(frame if isinstance(frame, bytes) else np.asarray(frame).tobytes())
        return f"{self.modality}:{digest.hexdigest()}"

    @property
    def name(self) -> str:
        """How errors name it."""
        return str(self.source) if isinstance(self.source, (str, Path)) else f"{self.modality} given in memory"


Segment: TypeAlias = Text | Media


@dataclass(frozen=True)
class Document:
    """Segments in order.

    Attributes:
        id: what errors and predictions call it.
        info: what evaluation needs besides (question type, true answer ...); never seen by the model.
    """

    segments: tuple[Segment, ...]
    id: str = ""
    info: Mapping[str, Any] = field(default_factory=FrozenMap)

    @staticmethod
    def ask(question: str, *, answer: str | None = None, system: str | None = None, **media: Signal) -> Document:
        """One question about media, by modality: `Document.ask("What is this?", image="cat.png")`."""
        first = (Text(system, "system"),) if system else ()
        last = (Text(answer, "assistant"),) if answer is not None else ()
        return Document((*first, *(Media(m, s) for m, s in media.items()), Text(question), *last))

    @property
    def media(self) -> tuple[Media, ...]:
        return tuple(s for s in self.segments if isinstance(s, Media))

    @property
    def answer(self) -> tuple[Segment, ...]:
        """What the assistant gives at its end; what comes before is the question."""
        return tuple(takewhile(lambda s: s.role == "assistant", reversed(self.segments)))[::-1]

    @property
    def captions(self) -> list[str]:
        """Of each medium its caption, or the text before it."""
        found, words = [], ""
        for segment in self.segments:
            words = segment.text if isinstance(segment, Text) else words
            found += [] if isinstance(segment, Text) else [segment.caption or words]
        return found

    def turns(self) -> list[Turn]:
        """Segments grouped by speaker; media become (modality, running index)."""
        turns: list[Turn] = []
        count = 0
        for (role, learn), members in groupby(self.segments, key=lambda s: (s.role, s.learn)):
            content: list[str | tuple[str, int]] = []
            for segment in members:
                if isinstance(segment, Media):
                    content.append((segment.modality, count))
                    count += 1
                else:
                    content.append(segment.text)
            turns.append(Turn(role, tuple(content), learn))
        return turns
