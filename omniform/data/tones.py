"""Short sounds with questions about them, made here: what a system that hears is tried on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import numpy as np

from omniform.data.dataset import DataError
from omniform.data.document import Document, Media, Text
from omniform.index import unknown

RATE = 16000
MOVES = ("steady", "rising", "falling")
PITCHES = ("low", "high")
FORMS = ("qa", "sounds")
LOW, HIGH = 220.0, 1760.0
"""Frequencies in the middle of a sound, in Hz."""


@dataclass(frozen=True)
class Tones:
    """Tones that are low or high, and steady, rising or falling by an octave; two questions about each.

    Attributes:
        limit: sounds; each kind comes up in turn.
        echoed: whether the words of an answer are followed by the sound itself, said again.
        seed: of their lengths (half a second to one and a half) and loudness.
        form: "qa", one document a question; or "sounds", one document for each: words, such as "a rising low tone", and
            the sound as the answer.
    """

    limit: int = 60
    seed: int = 0
    echoed: bool = False
    form: str = "qa"
    _documents: list[Document] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise DataError(f"tones: limit {self.limit}; give at least 1 sound")
        if self.form not in FORMS:
            raise unknown("form of tones", self.form, FORMS)
        random = np.random.default_rng(self.seed)
        documents: list[Document] = []
        for number in range(self.limit):
            move, pitch = MOVES[number % 3], PITCHES[number // 3 % 2]
            media = Media("audio", (tone(move, pitch, *random.uniform((0.5, 0.1), (1.5, 0.6))), RATE))
            if self.form == "sounds":
                made = (Text(f"a {move} {pitch} tone"), replace(media, role="assistant"))
                documents.append(Document(made, f"tones/{number}"))
                continue
            said = (replace(media, role="assistant"),) if self.echoed else ()
            for question, answer in (("how does it move?", move), ("is it low or high?", pitch)):
                segments = (media, Text(question), Text(answer, "assistant"), *said)
                documents.append(Document(segments, f"tones/{number}/{answer}"))
        object.__setattr__(self, "_documents", documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Document:
        return self._documents[index]

    def group(self, index: int) -> Hashable:
        return index // 2 if self.form == "qa" else index


def tone(move: str, pitch: str, seconds: float, loudness: float) -> np.ndarray:
    """Samples of one sound."""
    time = np.linspace(-0.5, 0.5, int(seconds * RATE))
    octaves = {"steady": 0.0, "rising": 1.0, "falling": -1.0}[move]
    hertz = (HIGH if pitch == "high" else LOW) * 2.0 ** (octaves * time)
    return (loudness * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)).astype(np.float32)
