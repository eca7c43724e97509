"""Names of the six stamps, and which of them each system carries (`systems/_stamps.json`, see `verify --record`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

STAMPS = ("row", "build", "layout", "parity", "train", "generate")
FILE = "_stamps.json"


@cache
def recorded() -> Mapping[str, Mapping[str, bool]]:
    """System -> stamp -> whether it was earned when all systems were last verified."""
    return json.loads(path().read_text(encoding="utf-8"))


def text_of(stamps: Mapping[str, Mapping[str, bool]]) -> str:
    """The content of the file: one system a line."""
    lines = (f"{json.dumps(slug)}: {json.dumps(dict(stamps[slug]))}" for slug in sorted(stamps))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def path() -> Path:
    """Where the file is."""
    return Path(__file__).parents[1] / "systems" / FILE
