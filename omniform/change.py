"""Changed copies of nested frozen data, by dotted paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias

from omniform.frozen import FrozenMap
from omniform.geometry import SpecError
from omniform.index import unknown

Path: TypeAlias = tuple[str, ...]
Check: TypeAlias = Callable[[Any, Any, Any, Path], None]
"""Called with the owner of an entry, its old value (None: it is new), its new one, and its path, before it changes."""


def changed(data: Any, changes: Mapping[str, Any], check: Check | None = None) -> Any:
    """A copy of nested frozen data with all changes made at once, so that only the result must be possible.

    Keys are dotted paths; tuples of named items are indexed by name. What replaces an entry comes before what goes
    deeper into it, in whatever order they are written. A mapping in the place of a dataclass changes the fields that
    it names; to a mapping an entry may be added.

    Raises:
        UnknownName: a step of a path does not exist; the nearest names are given.
        SpecError: a path goes into what has no entries, or the result is impossible.
    """
    return _changed(data, _paths(changes), (), check)


def _changed(data: Any, changes: Mapping[Path, Any], where: Path, check: Check | None) -> Any:
    known = _entries(data, where)
    new: dict[str, Any] = {}
    deeper: dict[str, dict[Path, Any]] = {}
    for (head, *rest), value in sorted(changes.items(), key=lambda item: len(item[0])):
        if head not in {*known, *new} and (rest or not isinstance(data, Mapping)):
            raise unknown(f"entry of {'.'.join(where) or type(data).__name__}", head, known)
        old = new.get(head, known.get(head))
        if rest:
            deeper.setdefault(head, {})[tuple(rest)] = value
        elif is_dataclass(old) and isinstance(value, Mapping):
            deeper.setdefault(head, {}).update(_paths(value))
        else:
            if check:
                check(data, old, value, (*where, head))
            new[head] = value
    for head, below in deeper.items():
        new[head] = _changed(new.get(head, known.get(head)), below, (*where, head), check)
    return _with(data, new)


def _paths(changes: Mapping[str, Any]) -> dict[Path, Any]:
    return {tuple(str(path).split(".")): value for path, value in changes.items()}


def _entries(data: Any, where: Path) -> Mapping[str, Any]:
    if is_dataclass(data) and not isinstance(data, type):
        return {f.name: getattr(data, f.name) for f in fields(data)}
    if isinstance(data, Mapping):
        return data
    if isinstance(data, tuple):
        return {getattr(item, "name", str(i)): item for i, item in enumerate(data)}
    raise SpecError(f"{'.'.join(where) or 'what is changed'} is {data!r}, which has no entries of its own to change")


def _with(data: Any, new: Mapping[str, Any]) -> Any:
    if is_dataclass(data) and not isinstance(data, type):
        return replace(data, **new)
    if isinstance(data, Mapping):
        return FrozenMap({**data, **new})
    return tuple(new.get(name, item) for name, item in _entries(data, ()).items())
