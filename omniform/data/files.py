"""Datasets in files: LLaVA's JSON with an image folder, and chat messages as JSONL or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniform.data.dataset import DataError
from omniform.data.document import Document, Media, Segment, Text


@dataclass(frozen=True)
class LlavaJson:
    """Conversations in LLaVA's JSON: `[{"id", "image", "conversations": [{"from", "value"}]}]`.

    Attributes:
        path: the JSON file.
        images: folder that the `image` entries are relative to.
    """

    path: Path
    images: Path
    records: Sequence[Mapping[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            records = json.loads(Path(self.path).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{self.path}: not a readable JSON file ({error}); LLaVA data is one JSON list") from error
        if not isinstance(records, list):
            raise DataError(
                f"{self.path}: holds a {type(records).__name__}, but LLaVA data is one JSON list of records"
            )
        object.__setattr__(self, "records", records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Document:
        record = self.records[index]
        names = _as_list(record.get("image"))
        media = iter([Media("image", str(Path(self.images) / n)) for n in names])
        segments: list[Segment] = []
        for turn in _required(record, "conversations", self.path, index):
            role = {
                "human": "user",
                "user": "user",
                "gpt": "assistant",
                "assistant": "assistant",
                "system": "system",
            }.get(turn.get("from", ""))
            if role is None:
                raise DataError(f"{self.path}, record {index}: speaker {turn.get('from')!r}; known: human, gpt, system")
            segments += _interleave(turn["value"], "<image>", media, role, self.path, index)
        left = sum(1 for _ in media)
        if left:
            raise DataError(f"{self.path}, record {index}: images {len(names)}, <image> places {len(names) - left}")
        return Document(tuple(segments), str(record.get("id", index)))

    def group(self, index: int) -> Hashable:
        return tuple(_as_list(self.records[index].get("image"))) or index


def _interleave(text: str, place: str, media: Iterator[Media], role: Any, path: Path, index: int) -> Iterator[Segment]:
    """Text split at its places, with the next medium put at each."""
    for number, chunk in enumerate(text.split(place)):
        if number:
            item = next(media, None)
            if item is None:
                raise DataError(f"{path}, record {index}: more {place} places than images; add the missing file names")
            yield Media(item.modality, item.source, role)
        words = chunk.strip("\n") if place in text else chunk
        if words:
            yield Text(words, role)


@dataclass(frozen=True)
class ChatRecords:
    """Chat messages, one record a line of JSONL or a row of Parquet.

    `{"messages": [{"role", "content"}]}`; content is a string or a list of `{"type": "text", "text"}` and
    `{"type": "image" | "video", "path" | "url" | "bytes"}`, with "caption" where a model learns to make it.

    Attributes:
        path: `.jsonl` or `.parquet`.
        root: folder that relative media paths start from; the file's own folder if not given.
    """

    path: Path
    root: Path | None = None
    records: Sequence[Mapping[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        path = Path(self.path)
        readers: Mapping[str, Callable[[Path], Sequence[Mapping[str, Any]]]] = {
            ".jsonl": _read_jsonl, ".parquet": _read_parquet,
        }  # fmt: skip
        if path.suffix not in readers:
            raise DataError(f"{path}: chat records are .jsonl or .parquet files")
        try:
            records = readers[path.suffix](path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        object.__setattr__(self, "records", records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Document:
        record = self.records[index]
        segments: list[Segment] = []
        for message in _required(record, "messages", self.path, index):
            content = message["content"]
            items = [{"type": "text", "text": content}] if isinstance(content, str) else content
            segments += (self._segment(item, message["role"], index) for item in items)
        return Document(tuple(segments), str(record.get("id", index)))

    def _segment(self, item: Mapping[str, Any], role: Any, index: int) -> Segment:
        kind = item.get("type")
        if kind == "text":
            return Text(item["text"], role)
        source = item.get("bytes") or item.get("url")
        if not source and item.get("path"):
            source = str((self.root or Path(self.path).parent) / item["path"])
        if not source:
            raise DataError(
                f"{self.path}, record {index}: a {kind} item needs one of path, url, bytes; has {list(item)}"
            )
        return Media(str(kind), source, role, caption=str(item.get("caption") or ""))

    def group(self, index: int) -> Hashable:
        return tuple(m.key for m in self[index].media) or index


def _read_jsonl(path: Path) -> list[Mapping[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from error
    return rows


def _read_parquet(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _required(record: Mapping[str, Any], key: str, path: Path, index: int) -> Any:
    if key not in record:
        raise DataError(f"{path}, record {index}: has {sorted(record)}, but needs {key!r}")
    return record[key]


def _as_list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
