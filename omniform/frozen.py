"""A dict that cannot change, so that declarations stay data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(Mapping[K, V], Generic[K, V]):
    """Read-only, hashable, ordered, picklable mapping; written like a dict."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V] | Any = (), **named: V) -> None:
        self._items: dict[K, V] = dict(items, **named)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)
