"""A `System` as JSON and back: what a checkpoint says of itself.

Declarations are written with every field, so that a file means the same when a default changes later. Class names are
looked up among the parts of this library (`index.declarations`) and those the reader hands in; a file never names a
module to import.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

from omniform import geometry, grammar, prompt, spec
from omniform.frozen import FrozenMap
from omniform.index import UnknownName, every_part, unknown
from omniform.parts import Part
from omniform.spec import System

FORMAT, VERSION = "omniform-system", 1
CLASS = "class"


class SerialError(ValueError):
    """A file that does not describe a system; the message names the file, the place in it and the way out."""


def dumps(system: System) -> str:
    """The system as indented JSON.

    Raises:
        SerialError: a field holds a value that is not data.
    """
    body = {"format": FORMAT, "version": VERSION, "system": _encode(system, system.slug)}
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def loads(text: str, name: str = "system.json", parts: Iterable[type[Part]] = ()) -> System:
    """The system that `dumps` wrote.

    Args:
        name: how errors call the text.
        parts: part classes of the caller's own that it may mention.

    Raises:
        SerialError: not such a file, a later version, an unknown class or field, or a composition that cannot work.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SerialError(f"{name} is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise SerialError(f'{name} does not describe a system: it lacks "format": "{FORMAT}"')
    if data.get("version") != VERSION:
        raise SerialError(
            f"{name} has format version {data.get('version')!r}, this omniform reads version {VERSION}; "
            "use the omniform that wrote it"
        )
    own = {part.__name__: part for part in parts}
    try:
        system = _decode(data.get("system"), own, "system")
    except (UnknownName, ValueError, TypeError) as error:
        raise SerialError(f"{name}: {error}") from error
    if not isinstance(system, System):
        raise SerialError(f"{name} describes a {type(system).__name__}, not a System")
    return system


def save(system: System, path: str | Path) -> None:
    """Write a system's JSON to a file."""
    Path(path).write_text(dumps(system), encoding="utf-8")


def load(path: str | Path, parts: Iterable[type[Part]] = ()) -> System:
    """The system in a file; arguments and errors as in `loads`, and OSError where it cannot be read."""
    try:
        return loads(Path(path).read_text(encoding="utf-8"), str(path), parts)
    except UnicodeDecodeError as error:
        raise SerialError(f"{path} is not text: {error}") from error


# --- to JSON -----------------------------------------------------------------------------------------------------


def _encode(value: Any, where: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        body = {f.name: _encode(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value) if f.init}
        return {CLASS: type(value).__name__, **body}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == CLASS:
                raise SerialError(f"{where}: mappings are written with string keys other than {CLASS!r}, got {key!r}")
        return {key: _encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise SerialError(f"{where}: {value!r} is not data (numbers, strings, tuples, mappings, declarations)")


# --- from JSON ---------------------------------------------------------------------------------------------------


@cache
def plain_classes() -> dict[str, type]:
    """Class name -> class, of declarations that are not parts: Continuous, CodeSpan, Stage, Prompt ..."""
    found = (c for module in (spec, prompt, geometry, grammar) for c in vars(module).values() if isinstance(c, type))
    return {c.__name__: c for c in found if is_dataclass(c) and not issubclass(c, Part)}


def _class(name: Any, own: Mapping[str, type]) -> type:
    known = {**every_part(), **plain_classes(), **own}
    if name not in known:
        raise UnknownName(
            f"{unknown('class', str(name), known)}; a part of your own must be handed in: parts=({name},)"
        )
    return known[name]


def _decode(data: Any, own: Mapping[str, type], where: str) -> Any:
    if isinstance(data, list):
        return tuple(_decode(item, own, f"{where}[{i}]") for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    body = {key: _decode(item, own, f"{where}.{key}") for key, item in data.items() if key != CLASS}
    if CLASS not in data:
        return FrozenMap(body)
    cls = _class(data[CLASS], own)
    _check_fields(cls, body, where)
    return cls(**body)


def _check_fields(cls: type, body: Mapping[str, Any], where: str) -> None:
    known = {f.name: f for f in fields(cls) if f.init}
    for key in body:
        if key not in known:
            raise unknown(f"field of {cls.__name__} (at {where})", key, known)
    missing = [name for name, f in known.items() if name not in body and _required(f)]
    if missing:
        raise SerialError(f"{where} lacks {', '.join(missing)}, which a {cls.__name__} needs")
    hints = _hints(cls)
    for key, value in body.items():
        if not fits(value, hints[key]):
            raise SerialError(f"{where}.{key} must be {_words(hints[key])}, got {value!r}")


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the annotated type; whole numbers fit where fractions are asked for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        return isinstance(value, tuple) and _fits_items(value, args)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if hint is Any or not isinstance(hint, type):
        return True
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)


def _fits_items(value: tuple[Any, ...], args: tuple[Any, ...]) -> bool:
    if args[1:] == (...,):
        return all(fits(v, args[0]) for v in value)
    return len(value) == len(args) and all(fits(v, a) for v, a in zip(value, args, strict=True))


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("omniform.", "")
