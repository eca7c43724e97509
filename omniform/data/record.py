"""Documents as chat records: what `data.files.ChatRecords` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from omniform.codecs.wave_module import wav_bytes
from omniform.data.dataset import DataError
from omniform.data.document import Document, Media, Segment, Text
from omniform.data.media import frames_of
from omniform.data.sound import samples_of
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
        raise DataError(f"{segment.name} has no path to be named by; save it first (`write_record`, or --out DIR)")
    source = str(segment.source)
    place = "url" if source.startswith(("http://", "https://")) else "path"
    return {"type": segment.modality, place: source, **({"caption": segment.caption} if segment.caption else {})}


def write_record(document: Document, folder: Path) -> Document:
    """Write `document.json` and the media that lie in memory into a new folder, whole or not at all.

    Returns:
        The document as it is written: all media have a path or URL, those saved here relative to the folder.

    Raises:
        DataError: the folder holds other files.
        MediaError: a medium in memory is none.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).exists():
        raise DataError(f"{folder} holds other files and no {FILE}; give another directory")
    with atomic_directory(folder) as partial:
        kept = Document(tuple(_saved(document, partial)), document.id)
        text = json.dumps(record_of(kept), indent=1, ensure_ascii=False)
        (partial / FILE).write_text(text + "\n", encoding="utf-8")
    return kept


def _saved(document: Document, folder: Path) -> Iterator[Segment]:
    """Segments whose media all have a path or URL; paths are absolute, files saved here are named alone."""
    for number, segment in enumerate(document.segments):
        if isinstance(segment, Text) or (isinstance(segment.source, str) and "://" in segment.source):
            yield segment
        elif isinstance(segment.source, (str, Path)):
            yield replace(segment, source=str(Path(segment.source).resolve()))
        else:
            yield replace(segment, source=_save(segment, folder, f"{segment.modality}-{number}"))


def _save(medium: Media, folder: Path, stem: str) -> str:
    """Write a medium that lies in memory; the name of its file, or of a folder with one picture for each frame."""
    source = medium.source
    if isinstance(source, Image.Image):
        source.save(folder / f"{stem}.png")
        return f"{stem}.png"
    if medium.modality == "audio" and isinstance(source, tuple):
        samples, rate = samples_of(medium)
        source = wav_bytes(torch.from_numpy(samples), rate)
    if isinstance(source, bytes):
        (folder / f"{stem}{_ending(source)}").write_bytes(source)
        return f"{stem}{_ending(source)}"
    frames = frames_of(medium)
    (folder / stem).mkdir()
    for number, frame in enumerate(frames):
        frame.save(folder / stem / f"{number:06}.png")
    return stem


def _ending(file: bytes) -> str:
    """Usual ending of a file's name, by its first bytes."""
    known = ((b"RIFF", ".wav"), (b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"GIF8", ".gif"), (b"fLaC", ".flac"))
    return next((ending for start, ending in known if file.startswith(start)), ".bin")
