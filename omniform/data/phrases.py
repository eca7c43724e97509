"""What is spoken in the data set `spoken`: strings of digits and short commands, by whom, and how."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LONGEST = 4
"""Digits of a string at most."""
SHORT = 2
"""Strings of so many digits belong to both splits; longer ones to one of them."""
PLACES = ("kitchen", "bedroom", "hall", "garden")
PATTERNS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("turn",), ("on", "off"), ("the",), PLACES, ("light", "fan", "heating")),
    (("set",), ("a timer", "an alarm"), ("for",), DIGITS[2:], ("minutes", "hours")),
    (("play",), ("some music", "the news", "the next song")),
    (("open", "close"), ("the",), ("door", "window", "garage")),
    (("volume",), ("up", "down")),
    (("go",), ("left", "right", "up", "down", "back")),
    (("call",), ("home", "the office", "a doctor")),
    (("stop", "what time is it", "thank you"),),
)
"""Slots of each kind of command, and what may stand in them."""
ACCENTS = (
    "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip
SPEAKERS = {
    "train": (
        "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3",
        "klatt4", "croak", "adam", "Alex", "Alicia", "Andy", "Annie", "antonio", "belinda", "boris", "Denis",
        "ed", "edward", "gustave", "Henrique", "Hugo", "iven", "iven2", "iven3", "iven4", "Jacky", "john", "Lee",
        "linda", "marcelo", "max", "Michael", "miguel", "norbert", "pablo", "pedro", "rob", "robert", "RicishayMax",
        "RicishayMax2", "RicishayMax3", "sandro", "steph", "steph2", "steph3", "travis", "zac",
    ),
    "test": (
        "Andrea", "anika", "aunty", "benjamin", "david", "Diogo", "Gene", "Gene2", "grandma", "grandpa", "kaukovalta",
        "Marco", "Mario", "michel", "Mike", "Nguyen", "paul", "quincy", "shelby", "victor",
    ),
}  # fmt: skip
"""espeak-ng's speakers, parted so that no relative of a speaker (such as steph and steph2) is in the other split."""
SPEED, PITCH = (140, 220), (20, 80)
"""Words a minute; espeak-ng's scale of 0 to 99."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One phrase as it is spoken.

    Attributes:
        voice: espeak-ng's name, accent and speaker: "en-us+f3".
        noise: dB by which the speech is stronger than the noise; None is quiet.
        loudness: highest sample.
        lead: seconds before the speech.
    """

    words: str
    kind: str
    voice: str
    speed: int
    pitch: int
    noise: float | None
    loudness: float
    lead: float

    @property
    def type(self) -> str:
        """Kind of a question for evaluations: "digits, quiet", "command, 10 dB"."""
        return f"{self.kind}, {'quiet' if self.noise is None else f'{self.noise:g} dB'}"


def split_of(words: str) -> str | None:
    """The split that a string of digits belongs to; None where it is in both."""
    if len(words.split()) <= SHORT:
        return None
    return "test" if zlib.crc32(words.encode()) % 5 == 0 else "train"


def digits(random: np.random.Generator, split: str, lengths: Sequence[int]) -> str:
    """A string of digits that the split may hold."""
    while True:
        words = " ".join(DIGITS[n] for n in random.integers(10, size=random.choice(lengths)))
        if split_of(words) in (None, split):
            return words


def command(random: np.random.Generator) -> str:
    """A command: each pattern comes as often, up to fourfold, as it has words to choose."""
    weights = np.array([min(4, len(list(product(*pattern)))) for pattern in PATTERNS], float)
    pattern = PATTERNS[random.choice(len(PATTERNS), p=weights / weights.sum())]
    return " ".join(slot[random.integers(len(slot))] for slot in pattern)


def voices(split: str) -> tuple[str, ...]:
    """All voices of a split: every speaker in every accent."""
    return tuple(f"{accent}+{speaker}" for speaker, accent in product(SPEAKERS[split], ACCENTS))
