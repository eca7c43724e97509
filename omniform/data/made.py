"""Data made on this machine: built once into a directory that later runs find again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omniform.weights.atomic import atomic_directory

CONTENT = "made.json"
"""File that says what a directory was made from."""


def home() -> Path:
    """Where made data lie: $OMNIFORM_CACHE, else `omniform` in the user's directory of caches."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OMNIFORM_CACHE") or Path(caches, "omniform"))


def made(name: str, content: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The directory of some data, made where it is not there yet; it appears whole or not at all.

    Args:
        content: plain data of everything that the files depend on; other content is another directory.
        make: fills an empty directory.
    """
    text = json.dumps(content, sort_keys=True)
    folder = home() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        with atomic_directory(folder) as partial:
            make(partial)
            (partial / CONTENT).write_text(text + "\n", encoding="utf-8")
    return folder
