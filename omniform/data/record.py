"""Documents as chat records: what `data.files.ChatRecords` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from omniform.data.dataset import DataError
from omniform.data.document import Document, Segment, Text
from omniform.weights.atomic import atomic_directory

FILE = "document.json"


def record_of(document: Document) -> dict[str, Any]:
    """`{"messages": [{"role", "content"}]}`; media are named by their path or URL.

    Raises:
        DataError: a medium lies in memory; `write_record` saves such media.
    """
    messages = []
    for role, members in groupby(document.segments, key=lambda s: s.role):
        messages.append({"role": role, "content": [_item(segment) for segment in members]})
    return {**({"id": document.id} if document.id else {}), "messages": messages}


def _item(segment: Segment) -> dict[str, str]:
    if isinstance(segment, Text):
        return {"type": "text", "text": segment.text}
    if not isinstance(segment.source, (str, Path)):
        raise DataError(f"{segment.name} has no path to be named by; save it first (`write_record` does)")
    source = str(segment.source)
    place = "url" if source.startswith(("http://", "https://")) else "path"
    return {"type": segment.modality, place: source, **({"caption": segment.caption} if segment.caption else {})}


def write_record(document: Document, folder: Path) -> None:
    """Write `document.json` and the pictures that lie in memory into a new folder, whole or not at all.

    Raises:
        DataError: the folder holds other files, or a medium in memory is neither a picture nor a file.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).exists():
        raise DataError(f"{folder} holds other files and no {FILE}; give another directory")
    with atomic_directory(folder) as partial:
        kept = Document(tuple(_saved(document, partial)), document.id)
        text = json.dumps(record_of(kept), indent=1, ensure_ascii=False)
        (partial / FILE).write_text(text + "\n", encoding="utf-8")


def _saved(document: Document, folder: Path) -> Iterator[Segment]:
    """Segments whose media all have a path or URL; paths are absolute, files saved here are named alone."""
    for number, segment in enumerate(document.segments):
        if isinstance(segment, Text) or (isinstance(segment.source, str) and "://" in segment.source):
            yield segment
        elif isinstance(segment.source, (str, Path)):
            yield replace(segment, source=str(Path(segment.source).resolve()))
        elif isinstance(segment.source, Image.Image):
            name = f"{segment.modality}-{number}.png"
            segment.source.save(folder / name)
            yield replace(segment, source=name)
        elif isinstance(segment.source, bytes):
            name = f"{segment.modality}-{number}{_ending(segment.source)}"
            (folder / name).write_bytes(segment.source)
            yield replace(segment, source=name)
        else:
            raise DataError(f"{segment.name}: only pictures and files in memory can be saved; give a path")


def _ending(file: bytes) -> str:
    """Usual ending of a file's name, by its first bytes."""
    known = ((b"RIFF", ".wav"), (b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"GIF8", ".gif"), (b"fLaC", ".flac"))
    return next((ending for start, ending in known if file.startswith(start)), ".bin")
