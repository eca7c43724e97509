"""Manifests: key names and shapes of released checkpoints, one JSON a system, `{0..31}` standing for a range."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omniform.verify.check import Failed

FOLDER = Path(__file__).parents[1] / "systems" / "_reference"
BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Manifest:
    """What one released checkpoint holds.

    Attributes:
        variant: the release it describes.
        shapes: released key -> shape; "[separate owner/name] key" for what another repository holds.
    """

    variant: str
    shapes: dict[str, tuple[int, ...]]


def manifest(slug: str) -> Manifest:
    """The manifest of a system.

    Raises:
        Failed: there is none, or it does not list keys.
    """
    path = FOLDER / f"{slug}.json"
    if not path.exists():
        raise Failed(f"there is no list of the released keys of {slug}; put one at systems/_reference/{path.name}")
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data.get("keys"), dict):
        raise Failed(f"systems/_reference/{path.name} lists no keys")
    shapes = {key: tuple(shape) for pattern, shape in data["keys"].items() for key in expanded(pattern)}
    return Manifest(str(data.get("variant", slug)), shapes)


def expanded(pattern: str) -> Iterator[str]:
    """All keys of a pattern: `{0..3}`, `{0..10..2}` and `{0,2}` stand for numbers."""
    found = BRACES.search(pattern)
    if not found:
        yield pattern
        return
    for number in _numbers(found[1]):
        yield from expanded(pattern[: found.start()] + number + pattern[found.end() :])


def _numbers(inside: str) -> Iterator[str]:
    if ".." not in inside:
        yield from inside.split(",")
        return
    first, last, *step = (int(n) for n in inside.split(".."))
    yield from map(str, range(first, last + 1, step[0] if step else 1))
