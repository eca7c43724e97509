"""Clips of one moving shape each, drawn here, and questions about them: what a system that sees videos is tried on."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from omniform.data.dataset import DataError
from omniform.data.document import Document, Media, Text
from omniform.data.easy_vqa import COLOURS, SHAPES
from omniform.frozen import FrozenMap
from omniform.index import unknown

FORMS: Mapping[str, int] = FrozenMap(qa=5, clips=1, captions=1, both=6)
"""Form -> documents of each clip."""
CLIPS: Mapping[str, int] = FrozenMap(train=8000, test=1000)
"""Split -> clips."""
SIDE, FRAMES = 64, 8
"""Pixels of a frame's sides; frames of a clip."""
FINE = 4
"""Shapes are drawn so many times as large, and shrunk."""
WAYS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
"""Direction -> step in x and y."""
PAINT = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "black": (20, 20, 20), "gray": (130, 130, 130),
    "teal": (20, 150, 150), "brown": (130, 80, 40), "yellow": (235, 215, 40),
}  # fmt: skip
FAR = (14.0, 34.0)
"""Pixels that a shape moves in all."""
RADIUS = (6.0, 11.0)
EDGE = 1.0
"""Pixels that stay free beside the frame's edges."""


@dataclass(frozen=True)
class Clip:
    """One shape on its way.

    Attributes:
        start: centre in the first frame, (x, y) in pixels.
        far: pixels that it moves.
        turn: angle that it is turned by, in radians.
        ground: colour behind it.
    """

    shape: str
    colour: str
    way: str
    start: tuple[float, float]
    far: float
    radius: float
    turn: float
    ground: tuple[int, int, int]

    def frames(self) -> list[Image.Image]:
        """The clip's pictures."""
        step = self.far / (FRAMES - 1)
        dx, dy = WAYS[self.way]
        return [self._frame(self.start[0] + dx * step * i, self.start[1] + dy * step * i) for i in range(FRAMES)]

    def _frame(self, x: float, y: float) -> Image.Image:
        picture = Image.new("RGB", (SIDE * FINE, SIDE * FINE), self.ground)
        corners = [(FINE * (x + a), FINE * (y + b)) for a, b in outline(self.shape, self.radius, self.turn)]
        ImageDraw.Draw(picture).polygon(corners, PAINT[self.colour])
        return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def outline(shape: str, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape around its centre; a circle has 48."""
    angles = {
        "circle": [2 * pi * i / 48 for i in range(48)],
        "triangle": [2 * pi * i / 3 for i in range(3)],
        "rectangle": [s * 0.55 + half for half in (0.0, pi) for s in (-1, 1)],
    }[shape]
    return [(radius * cos(a + turn), radius * sin(a + turn)) for a in angles]


@dataclass(frozen=True)
class MovingShapes:
    """Clips of 8 frames of 64x64 pixels in which one shape moves left, right, up or down; five questions about each.

    Attributes:
        split: "train", 8,000 clips, or "test", 1,000; they are drawn apart.
        limit: at most so many clips, from the first; None is all.
        seed: of everything that is drawn.
        form: "qa", one document a question; or "clips", one document for each clip: words, such as "a red circle that
            moves left", and the clip as the answer; or "captions", the clip, and the words as the answer; or "both",
            the questions and the caption of each clip, which share it.
    """

    split: str
    limit: int | None = None
    seed: int = 0
    form: str = "qa"
    _documents: list[Document] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.split not in CLIPS:
            raise unknown("split of moving-shapes", self.split, CLIPS)
        if self.form not in FORMS:
            raise unknown("form of moving-shapes", self.form, FORMS)
        if self.limit is not None and self.limit < 1:
            raise DataError(f"moving-shapes: limit {self.limit}; give at least 1 clip")
        random = np.random.default_rng((self.seed, tuple(CLIPS).index(self.split)))
        documents: list[Document] = []
        for number in range(min(self.limit or CLIPS[self.split], CLIPS[self.split])):
            clip, name = drawn(random), f"moving-shapes/{self.split}/{number}"
            media = Media("video", clip.frames())
            if self.form in ("qa", "both"):
                documents += asked(clip, media, name, random)
            if self.form != "qa":
                documents.append(told(clip, media, name, self.form))
        object.__setattr__(self, "_documents", documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index: int) -> Document:
        return self._documents[index]

    def group(self, index: int) -> Hashable:
        return index // FORMS[self.form]


def drawn(random: np.random.Generator) -> Clip:
    """A clip by chance, whose shape stays inside the frame."""
    shape, colour, way = (str(random.choice(names)) for names in (SHAPES, COLOURS, tuple(WAYS)))
    far, radius = (float(random.uniform(*between)) for between in (FAR, RADIUS))
    ends = []
    for step in WAYS[way]:
        low, high = EDGE + radius + max(0.0, -step * far), SIDE - EDGE - radius - max(0.0, step * far)
        ends.append(float(random.uniform(low, high)))
    ground = tuple(int(v) for v in random.integers(232, 256, size=3))
    return Clip(
        shape=shape, colour=colour, way=way, start=(ends[0], ends[1]), far=far, radius=radius,
        turn=float(random.uniform(0, 2 * pi)), ground=(ground[0], ground[1], ground[2]),
    )  # fmt: skip


def told(clip: Clip, media: Media, name: str, form: str) -> Document:
    """A clip and one sentence that says all that is asked about it elsewhere; which of them answers is the form's."""
    words = Text(f"a {clip.colour} {clip.shape} that moves {clip.way}")
    if form == "clips":
        return Document((words, replace(media, role="assistant")), name)
    return Document((media, replace(words, role="assistant")), name)


def asked(clip: Clip, media: Media, name: str, random: np.random.Generator) -> Iterator[Document]:
    """A document for each question about a clip."""
    for kind, question, answer in questions(clip, random):
        info: FrozenMap[str, str] = FrozenMap(type=kind, answer=answer)
        yield Document((media, Text(question), Text(answer, "assistant")), f"{name}/{kind}", info)


def questions(clip: Clip, random: np.random.Generator) -> Iterator[tuple[str, str, str]]:
    """(type, question, answer): three open ones, and two that as often have the answer yes as no."""
    yield "direction", "which way does the shape move?", clip.way
    yield "colour", "what color is the shape?", clip.colour
    yield "shape", "what shape moves?", clip.shape
    asked = _asked(clip.way, tuple(WAYS), random)
    yield "yes/no: direction", f"does the shape move {asked}?", "yes" if asked == clip.way else "no"
    asked = _asked(clip.colour, COLOURS, random)
    yield "yes/no: colour", f"is the shape {asked}?", "yes" if asked == clip.colour else "no"


def _asked(true: str, names: tuple[str, ...], random: np.random.Generator) -> str:
    """The true name or, as often, another."""
    others = [name for name in names if name != true]
    return true if random.random() < 0.5 else str(random.choice(others))
