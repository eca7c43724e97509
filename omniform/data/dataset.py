"""Map-style datasets of documents.

A dataset says which of its documents share media (`group`), so that they can be packed into one tree.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from omniform.data.document import Document


class DataError(ValueError):
    """A dataset file that cannot be used; the message names the file, the record and the way out."""


class Dataset(Protocol):
    """Documents by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Document: ...

    def group(self, index: int) -> Hashable:
        """Equal for documents that share all their media."""
        ...


@dataclass(frozen=True)
class Documents:
    """Documents held in memory."""

    items: Sequence[Document]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Document:
        return self.items[index]

    def group(self, index: int) -> Hashable:
        return tuple(m.key for m in self.items[index].media) or index


@dataclass(frozen=True)
class Joined:
    """Several datasets one after the other."""

    parts: tuple[Dataset, ...]

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    def _locate(self, index: int) -> tuple[int, int]:
        for number, part in enumerate(self.parts):
            if index < len(part):
                return number, index
            index -= len(part)
        raise IndexError(f"document {index} beyond the {len(self)} of this dataset")

    def __getitem__(self, index: int) -> Document:
        number, inner = self._locate(index)
        return self.parts[number][inner]

    def group(self, index: int) -> Hashable:
        number, inner = self._locate(index)
        return number, self.parts[number].group(inner)
