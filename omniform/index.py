"""The folder is the registry: names of parts and systems, found without importing torch.

A part file `connectors/mlp.py` holds a declaration; the module it builds is named by the declaration's
`implementation` ("package.module:Class") and imported only when something is built.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

KINDS = (
    "views",
    "encoders",
    "connectors",
    "fusion",
    "experts",
    "backbones",
    "codecs",
    "diffusion",
    "decoders",
    "systems",
)
PART_KINDS = KINDS[:-1]


class UnknownName(LookupError):
    """A name that nothing carries; the message lists the nearest ones."""


def unknown(what: str, name: str, known: Iterable[str]) -> UnknownName:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(known)}"
    return UnknownName(f"no {what} named {name!r}; {hint}")


def resolve(reference: str) -> Any:
    """The object behind "package.module:Name"."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def files(kind: str) -> tuple[str, ...]:
    """Module names in the folder of one kind; `*_module` (torch) and `_*` files are not declarations."""
    folder = Path(__file__).parent / kind
    stems = (info.name for info in pkgutil.iter_modules([str(folder)]))
    return tuple(sorted(s for s in stems if not s.startswith("_") and not s.endswith("_module")))


@cache
def declarations(kind: str) -> dict[str, type]:
    """Class name -> part class, for every declaration in the folder of one kind."""
    from omniform.parts import Part

    found: dict[str, type] = {}
    for stem in files(kind):
        module = importlib.import_module(f"omniform.{kind}.{stem}")
        for value in vars(module).values():
            own = isinstance(value, type) and issubclass(value, Part) and value.__module__ == module.__name__
            if own and not vars(value).get("abstract", False):
                found[value.__name__] = value
    return found


def every_part() -> dict[str, type]:
    """Class name -> part class, over all kinds."""
    return {name: part for kind in PART_KINDS for name, part in declarations(kind).items()}


@cache
def _system_modules() -> dict[str, ModuleType]:
    modules = (importlib.import_module(f"omniform.systems.{stem}") for stem in files("systems"))
    return {m.SYSTEM.slug: m for m in modules}


def _systems() -> dict[str, Any]:
    return {slug: module.SYSTEM for slug, module in _system_modules().items()}


def stem(slug: str) -> str:
    """Name of the file that holds a system: its slug with "_" for "-" and "."."""
    return slug.replace("-", "_").replace(".", "_")


def is_here(slug: str) -> bool:
    """Whether a system is written down here; nothing is imported."""
    return stem(slug) in files("systems")


def names(kind: str) -> tuple[str, ...]:
    """Everything of one kind: slugs of systems, class names of parts."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    return tuple(sorted(_systems() if kind == "systems" else declarations(kind)))


def load(kind: str, name: str) -> Any:
    """One system by slug, or one part class by class name.

    Raises:
        UnknownName: nothing of that kind carries the name; the nearest names are given.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if kind == "systems" and is_here(name):
        found = importlib.import_module(f"omniform.systems.{stem(name)}").SYSTEM
        if found.slug == name:
            return found  # the others need not be imported
    members = _systems() if kind == "systems" else declarations(kind)
    if name not in members:
        raise unknown(kind.rstrip("s"), name, members)
    return members[name]


def system(name: str) -> Any:
    """A system by "slug" or "slug:variant"."""
    slug, _, variant = name.partition(":")
    found = load("systems", slug)
    return found.variant(variant) if variant else found


def release(slug: str, config: Mapping[str, Any]) -> Any:
    """The system at the sizes and choices of one release, by the `from_release` of the system's file.

    Args:
        config: the release's config.json; "vision_config" holds that of its encoder where it has one of its own, and
            for releases in several folders each folder's name holds that folder's.

    Raises:
        UnknownName: no such system.
        SpecError: the configuration is not one of this system.
    """
    modules = _system_modules()
    if slug not in modules:
        raise unknown("system", slug, modules)
    return modules[slug].from_release(config)
