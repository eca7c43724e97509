"""From "a folder or a hub id" to a folder on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from omniform.weights.layout import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
TEXTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
WEIGHTS = ("*.safetensors", "*.bin")
"""Patterns of weight files, the preferred first; the next is fetched only where nothing matches the one before."""


def folder_of(where: str | Path, weights: Sequence[str] = WEIGHTS) -> Path:
    """A local folder, or the snapshot of a hub repository, fetched if it is not here yet.

    Args:
        where: folder or hub id ("owner/name"); a folder of that name goes first.
        weights: patterns of weight files, the preferred first.

    Raises:
        CheckpointError: neither a folder nor a repository that can be fetched.
    """
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{where} is a file; give the folder of the released model")
    if not HUB_ID.fullmatch(str(where)):
        raise CheckpointError(f"there is no folder {where}, and it is not a hub id (owner/name) either")
    folder = path
    for pattern in weights:
        folder = _fetch(str(where), pattern)
        if any(folder.rglob(pattern)):
            break
    return folder


def _fetch(hub_id: str, pattern: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*TEXTS, pattern]))
    except Exception as error:  # the client raises errors of its own, of its transport and of the file system
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"there is no folder {hub_id}, and the hub repository of that name could not be fetched: {reason}"
        ) from error
