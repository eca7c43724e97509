"""YAML, overrides and typed reading of the plain data that recipes are written in."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from omniform.index import unknown

KINDS: Mapping[type, str] = {
    int: "a whole number", float: "a number", str: "a string", bool: "true or false", dict: "a mapping",
    list: "a list",
}  # fmt: skip
PATH_KEYED = (("set",), ("weights",), ("stages", "*", "learn"))
"""Mappings whose keys are dotted paths themselves: the rest of an override's path is one key of theirs."""


class RecipeError(ValueError):
    """A recipe that cannot run; the message names the key and the way out."""


# --- YAML --------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, as in YAML 1.2, and a key given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A recipe file as plain data.

    Raises:
        RecipeError: it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: holds {type(data).__name__}, but a recipe is a mapping of keys to values")
    return data


def parse_yaml(text: str, where: str) -> Any:
    """Plain data of a YAML text; `where` is how errors name it.

    Raises:
        RecipeError: not YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML: {' '.join(str(error).split())}") from error


def write_yaml(data: Mapping[str, Any]) -> str:
    """YAML that `parse_yaml` reads back as the same data."""
    return yaml.safe_dump(thawed(data), sort_keys=False, allow_unicode=True, width=120)


def thawed(data: Any) -> Any:
    """Mappings as dicts and sequences as lists, all the way down."""
    if isinstance(data, Mapping):
        return {k: thawed(v) for k, v in data.items()}
    return [thawed(v) for v in data] if isinstance(data, (list, tuple)) else data


# --- overrides ---------------------------------------------------------------------------------------------------


def overridden(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy with `dotted.key=value` overrides in place; values are YAML.

    Raises:
        RecipeError: an override without "=", or one that goes through something that is not a mapping.
    """
    result = copy.deepcopy(dict(data))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {text!r}: write key=value, such as stages.finetune.batch=16")
        *above, last = _keys(key.strip().split("."))
        place = result
        for step in above:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise RecipeError(f"override {text!r}: {step!r} holds {place!r}, which has no keys of its own")
        place[last] = parse_yaml(value, f"override {text!r}")
    return result


def _keys(steps: list[str]) -> list[str]:
    for pattern in PATH_KEYED:
        n = len(pattern)
        if len(steps) > n and all(p in ("*", s) for p, s in zip(pattern, steps, strict=False)):
            return [*steps[:n], ".".join(steps[n:])]
    return steps


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One line for each place where two pieces of plain data differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path}: {old!r} before, {new!r} now"


# --- typed reading -----------------------------------------------------------------------------------------------


class Fields:
    """A mapping of a recipe whose keys are all known and whose values are read with their type.

    Raises:
        RecipeError: not a mapping, or (in `get`) a value of another type.
        UnknownName: a key that nothing reads; the nearest names are given.
    """

    def __init__(self, data: Any, where: str, known: Sequence[str]) -> None:
        self.where = where
        self.data: Mapping[str, Any] = typed(data or {}, dict, where or "recipe")
        for key in self.data:
            if key not in known:
                raise unknown(f"key in {where or 'the recipe'}", str(key), known)

    def path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def get(self, key: str, kind: type, default: Any) -> Any:
        """The value of a key, or the default where it is not given."""
        return typed(self.data[key], kind, self.path(key)) if key in self.data else default

    def optional(self, key: str, kind: type, default: Any) -> Any:
        """Like `get`; null is allowed too."""
        return None if key in self.data and self.data[key] is None else self.get(key, kind, default)

    def one_of(self, key: str, choices: Sequence[str], default: Any) -> Any:
        value = self.get(key, str, default)
        if key in self.data and value not in choices:
            raise unknown(f"value of {self.path(key)}", value, choices)
        return value


def typed(value: Any, kind: type, where: str) -> Any:
    """The value, if it is of that kind; whole numbers pass as numbers."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is dict and isinstance(value, Mapping):
        return value
    if type(value) is not kind:
        raise RecipeError(f"{where}: {value!r} is not {KINDS[kind]}")
    return value


def at_least(value: float | None, least: float, where: str) -> None:
    """Refuse a number below `least`."""
    if value is not None and value < least:
        raise RecipeError(f"{where}: {value} is less than {least}")
