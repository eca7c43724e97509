"""Spoken digits and commands, made here by espeak-ng: what a system hears and writes down, or says."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omniform.codecs.wave_module import wav_bytes
from omniform.data import espeak, phrases
from omniform.data.dataset import DataError
from omniform.data.document import Document, Media, Text
from omniform.data.made import made
from omniform.data.phrases import Utterance
from omniform.frozen import FrozenMap
from omniform.index import unknown

FORMS, SPLITS = ("hear", "say"), ("train", "test")
CONTENT: Mapping[str, tuple[str, ...]] = FrozenMap(all=("digits", "command"), digits=("digits",), commands=("command",))
"""Kinds of phrases, which come in turn."""
LOUDNESS, LEAD = (0.3, 0.9), (0.02, 0.3)
STEADY: Mapping[str, Any] = FrozenMap(speed=170, pitch=50, loudness=0.6, lead=0.05)
"""How it is said where that does not vary."""
QUESTION = "what is said?"
MADE = 1
"""Raised when the same arguments give other sounds."""


@dataclass(frozen=True)
class Spoken:
    """English digits and short commands in many voices, speeds, pitches and noises, made by espeak-ng on first use.

    Speakers of one split are never heard in the other, and neither are its strings of three and four digits. The
    recordings, WAV files of 16,000 samples a second, stay in the directory of made data (`data.made.home`).

    Attributes:
        split: "train" or "test".
        form: "hear": a recording, and its words as the answer. "say": "say" and words, and the recording as the answer.
        content: "all", "digits" or "commands".
        limit: recordings.
        seed: of everything that is drawn.
        voices: espeak-ng's, instead of the split's own.
        noise: dB by which the speech is stronger than the noise, of which one is drawn; null is quiet.
        lengths: digits of a string, of which one is drawn.
        steady: whether speed, pitch, loudness and the silence before are always the same.
    """

    split: str
    form: str = "hear"
    content: str = "all"
    limit: int = 6000
    seed: int = 0
    voices: Sequence[str] = ()
    noise: Sequence[float | None] = (None, 20.0, 10.0, 5.0)
    lengths: Sequence[int] = (1, 2, 3, 4)
    steady: bool = False
    _documents: list[Document] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("split", self.split, SPLITS), ("form", self.form, FORMS), ("content", self.content, CONTENT),
        ):  # fmt: skip
            if value not in known:
                raise unknown(f"{name} of spoken", value, known)
        if self.limit < 1 or not self.noise or not all(1 <= n <= phrases.LONGEST for n in self.lengths or (0,)):
            raise DataError(
                f"spoken: limit {self.limit}, noise {list(self.noise)}, lengths {list(self.lengths)}; give at least 1 "
                f"recording, one noise (null is quiet), and lengths from 1 to {phrases.LONGEST} digits"
            )
        said = list(self.utterances())
        folder = made("spoken", self._content(said), lambda folder: self._make(said, folder))
        object.__setattr__(self, "_documents", [self._document(n, u, folder) for n, u in enumerate(said)])

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Document:
        return self._documents[index]

    def group(self, index: int) -> Hashable:
        return index

    def utterances(self) -> Iterator[Utterance]:
        """What is said, by whom and how; nothing is made."""
        random = np.random.default_rng((self.seed, SPLITS.index(self.split)))
        voices = tuple(self.voices) or phrases.voices(self.split)
        for number in range(self.limit):
            kinds = CONTENT[self.content]
            kind = kinds[number % len(kinds)]
            words = phrases.digits(random, self.split, self.lengths) if kind == "digits" else phrases.command(random)
            speed, pitch = (int(random.integers(*between)) for between in (phrases.SPEED, phrases.PITCH))
            voice, noise = (random.integers(len(names)) for names in (voices, self.noise))
            loudness, lead = (round(float(random.uniform(*between)), 3) for between in (LOUDNESS, LEAD))
            varied = {"speed": speed, "pitch": pitch, "loudness": loudness, "lead": lead}
            yield Utterance(
                words=words, kind=kind, voice=voices[voice], noise=self.noise[int(noise)],
                **(STEADY if self.steady else varied),
            )  # fmt: skip

    def _content(self, said: Sequence[Utterance]) -> Mapping[str, Any]:
        """What the recordings depend on."""
        return {"made": MADE, "espeak-ng": espeak.version(), "seed": self.seed, "said": [asdict(u) for u in said]}

    def _make(self, said: Sequence[Utterance], folder: Path) -> None:
        from rich.console import Console
        from rich.progress import track

        def record(number: int) -> None:
            path = folder / _name(number)
            random = np.random.default_rng((self.seed, number))
            wave = espeak.heard(espeak.spoken(said[number], path), said[number], random)
            path.write_bytes(wav_bytes(torch.from_numpy(wave), espeak.RATE))

        what = f"making {len(said):,} recordings, once"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(record, range(len(said)))
            for _ in track(done, what, total=len(said), console=Console(stderr=True)):
                pass

    def _document(self, number: int, said: Utterance, folder: Path) -> Document:
        name = f"spoken/{self.split}/{number}"
        info: FrozenMap[str, str] = FrozenMap(type=said.type, answer=said.words, voice=said.voice)
        source = str(folder / _name(number))
        if self.form == "say":
            return Document((Text(f"say {said.words}"), Media("audio", source, "assistant")), name, info)
        return Document((Media("audio", source), Text(QUESTION), Text(said.words, "assistant")), name, info)


def _name(number: int) -> str:
    return f"{number:05}.wav"
