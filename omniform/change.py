"""Changed copies of nested frozen data, by dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.index import unknown


def change(data: Any, path: str, value: Any) -> Any:
    """A copy of nested frozen data with one dotted path replaced; tuples of named items are indexed by name.

    Raises:
        UnknownName: a step of the path does not exist; the nearest names are given.
    """
    head, _, rest = path.partition(".")
    new = change(_step(data, head), rest, value) if rest else value
    if is_dataclass(data) and not isinstance(data, type):
        _step(data, head)
        return replace(data, **{head: new})
    if isinstance(data, Mapping):
        return FrozenMap({**data, head: new})
    at = [getattr(item, "name", None) for item in data].index(head)
    return (*data[:at], new, *data[at + 1 :])


def _step(data: Any, name: str) -> Any:
    if is_dataclass(data) and not isinstance(data, type):
        known: Mapping[str, Any] = {f.name: getattr(data, f.name) for f in fields(data)}
    elif isinstance(data, Mapping):
        known = data
    elif isinstance(data, tuple):
        known = {getattr(item, "name", str(i)): item for i, item in enumerate(data)}
    else:
        raise SpecError(f"cannot look for {name!r} inside {data!r}: it has no parts")
    if name not in known:
        raise unknown(f"entry of {type(data).__name__}", name, known)
    return known[name]
