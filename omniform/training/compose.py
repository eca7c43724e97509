"""Changes to a system as a recipe writes them: dotted paths to plain values, in which parts are named.

`{"inputs.image.encoder": {"part": "ConvNet", "width": 32}, "backbone.layers": 2}`. A mapping with `part` becomes that
part, or another declaration of that name (`Continuous`, `CodeSpan` ...); a mapping without it changes the named fields
of what stands there. All changes are made at once (`change`). A modality that the system lacks may be added whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast, get_args, get_type_hints

from omniform import parts, writing
from omniform.change import Path, changed
from omniform.frozen import FrozenMap
from omniform.index import every_part, unknown
from omniform.parts import Part
from omniform.prompt import Prompt
from omniform.serial import fits, plain_classes
from omniform.spec import MODALITIES, System
from omniform.training.plain import RecipeError

BY_MODALITY: Mapping[str, type] = FrozenMap(inputs=System, outputs=System, media=Prompt, answered=Prompt)
"""Mappings whose entries are named by modality -> what holds them."""


def compose(system: System, changes: Mapping[str, Any]) -> System:
    """The system with changes in place.

    Raises:
        UnknownName: a path, part or field that does not exist; the nearest names are given.
        RecipeError: a value of the wrong type, or a part of the wrong kind.
        SpecError: the resulting system is impossible.
    """
    made = {path: declared(value, f"set.{path}") for path, value in changes.items()}
    return cast(System, changed(system, made, _check))


def declared(value: Any, where: str) -> Any:
    """Plain data as spec data: mappings that name a part become it, lists become tuples."""
    if isinstance(value, Mapping):
        inner = {k: declared(v, f"{where}.{k}") for k, v in value.items()}
        return _part(inner.pop("part"), inner, where) if "part" in inner else FrozenMap(inner)
    return tuple(declared(v, where) for v in value) if isinstance(value, list) else value


def _part(name: str, values: Mapping[str, Any], where: str) -> Any:
    named = {**every_part(), **plain_classes()}
    if name not in named:
        raise unknown("part", name, named)
    made = named[name]
    known = [f.name for f in fields(made) if f.init]
    for key in values:
        if key not in known:
            raise unknown(f"field of {name} in {where}", key, known)
    hints = get_type_hints(made)
    for key, value in values.items():
        _check_type(hints[key], value, f"{where}.{key}")
    needed = inspect.signature(made).parameters.values()
    missing = [p.name for p in needed if p.default is p.empty and p.name not in values]
    if missing:
        raise RecipeError(f"{where}: {name} needs {', '.join(missing)} too")
    return made(**values)


def _check(owner: Any, old: Any, new: Any, where: Path) -> None:
    """Refuse a value of another type, or another kind of part, than what it replaces; only modalities may be new."""
    path, (*above, name) = ".".join(("set", *where)), where
    by_modality = bool(above) and above[-1] in BY_MODALITY
    if isinstance(owner, Mapping) and name not in (known := {*owner, *(MODALITIES if by_modality else ())}):
        raise unknown(f"entry of {'.'.join(above)}", name, known)
    if isinstance(old, Part) and _kind(old) is not _kind(new):
        got = f"{type(new).__name__} ({_kind(new).__name__.lower()})" if isinstance(new, Part) else repr(new)
        raise RecipeError(f"{path}: holds a part of kind {_kind(old).__name__.lower()}, not {got}")
    if is_dataclass(owner):
        _check_type(get_type_hints(type(owner))[name], new, path)
    elif by_modality:
        _check_type(get_args(get_type_hints(BY_MODALITY[above[-1]])[above[-1]])[1], new, path)


def _check_type(hint: Any, value: Any, where: str) -> None:
    if not fits(value, hint):
        kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("omniform.", "")
        raise RecipeError(f"{where}: {value!r} is not {kind}")


def _kind(part: Any) -> type:
    """The contract that a part fulfils: Encoder, Connector ..."""
    contracts = parts.__name__, writing.__name__
    return next(c for c in type(part).__mro__ if c.__module__ in contracts or c is object)
