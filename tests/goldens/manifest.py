"""Manifests: every key and shape of a full-size released checkpoint, written with ranges."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

from omniform.weights.layout import Place, Shape

FOLDER = Path(__file__).parent / "manifests"
RANGE = re.compile(r"\{([^{}]+)\}")
SEPARATE = re.compile(r"\[separate ([^\]]+)\] (.*)")


def manifests() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.json"))


def read(name: str) -> dict[Place, Shape]:
    """Place -> shape of one manifest, ranges written out."""
    keys = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["keys"]
    return {place(key): tuple(shape) for pattern, shape in keys.items() for key in expand(pattern)}


def expand(pattern: str) -> list[str]:
    """Every key of "a.{0..2}.b.{x,y}", the first range slowest."""
    literals = RANGE.split(pattern)
    choices = [_choices(text) if i % 2 else [text] for i, text in enumerate(literals)]
    return ["".join(parts) for parts in product(*choices)]


def _choices(text: str) -> list[str]:
    if ".." in text:
        first, last = (int(n) for n in text.split(".."))
        return [str(n) for n in range(first, last + 1)]
    return text.split(",")


def place(key: str) -> Place:
    """ "[separate owner/name] key" lies in another repository; a remark in brackets may follow a key."""
    key = key.split(" (")[0]
    apart = SEPARATE.fullmatch(key)
    return Place(apart[2], apart[1]) if apart else Place(key)
