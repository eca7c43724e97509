"""Emoji as Unicode has them: names, groups, and which are variants of one (Unicode Technical Standard 51)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from omniform.frozen import FrozenMap

JOINER, PICTURE, CAP = "\u200d", "\ufe0f", "\u20e3"
TONES: Mapping[str, str] = FrozenMap(
    zip(
        "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff",
        ("light", "medium-light", "medium", "medium-dark", "dark"),
        strict=True,
    )
)
"""Skin tones, by the names of section 2.4."""
UNSEEN = re.compile(f"[{JOINER}{PICTURE}{''.join(TONES)}]")
TURNED = re.compile(f"{JOINER}[\u2640\u2642\u27a1]{PICTURE}?")
"""What makes a person a woman or a man, or turns one to the right."""
SAME: Mapping[str, str] = FrozenMap(
    {"👨": "🧑", "👩": "🧑", "👦": "🧒", "👧": "🧒", "👴": "🧓", "👵": "🧓", "🤶": "🎅", "👸": "🤴", "🫅": "🤴",
     "🫃": "🫄", "🤰": "🫄", "👬": "👫", "👭": "👫", "💃": "🕺"}
)  # fmt: skip
"""Women, men and persons that have characters of their own."""
JOINED: Mapping[str, str] = FrozenMap(
    {"🧑🎄": "🎅", "🧑🤝🧑": "👫", "🧑❤🧑": "💑", "🧑❤💋🧑": "💏", "🫱🫲": "🤝", "🧑🐰🧑": "👯"}
)  # fmt: skip
FAMILY = re.compile("🧑?🧑?🧒+|🧑🧑")


def family(emoji: str) -> str:
    """What an emoji shows whatever its skin tone, gender, age in a family, or direction: equal for all variants."""
    plain = UNSEEN.sub("", TURNED.sub("", emoji))
    people = "".join(SAME.get(c, c) for c in plain)
    alone = people in SAME.values()
    return "👪" if not alone and FAMILY.fullmatch(people) else JOINED.get(people, people)


def named(emoji: str) -> str:
    """Names of an emoji's characters as words: "woman, dark skin tone, rocket".

    Raises:
        ValueError: a character that this Python's Unicode does not name.
    """
    if all(0x1F1E6 <= ord(c) <= 0x1F1FF for c in emoji):
        return "flag " + " ".join(_name(c)[-1] for c in emoji)
    words: list[str] = []
    for part in emoji.split(JOINER):
        words += [_name(c) for c in part if c != PICTURE and not _tag(c)]
        if tags := "".join(_name(c)[-1] for c in part if _tag(c) and ord(c) < 0xE007F):
            words.append(" ".join(tags))
    return ", ".join(words)


def _tag(character: str) -> bool:
    return 0xE0020 <= ord(character) <= 0xE007F


def _name(character: str) -> str:
    if character in TONES:
        return f"{TONES[character]} skin tone"
    if character == CAP:
        return "keycap"
    return unicodedata.name(character).lower().removeprefix("emoji component ")


class Kind(NamedTuple):
    """Where Unicode lists an emoji."""

    group: str
    subgroup: str


@cache
def kinds() -> Mapping[str, Kind]:
    """Family -> kind, of all emoji of Unicode 14, which every Python this library runs on can name."""
    found = {}
    for line in (files("omniform.data") / "emoji_groups.tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            group, subgroup, members = line.split("\t")
            found.update(dict.fromkeys(members.split(" "), Kind(group, subgroup)))
    return FrozenMap(found)


def groups() -> tuple[str, ...]:
    """The nine groups in Unicode's order."""
    return tuple(dict.fromkeys(kind.group for kind in kinds().values()))
