"""Stamp "layout": the keys and shapes of a released checkpoint and ours are the same set, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omniform.spec import System
from omniform.verify import goldens
from omniform.verify.check import Context, Failed

if TYPE_CHECKING:
    from omniform.weights.layout import Place, Shape


@dataclass(frozen=True)
class Difference:
    """Where a checkpoint and a system do not meet, in the release's words.

    Attributes:
        missing: what the system needs and the checkpoint lacks.
        left_over: what the system has no place for.
        changed: names that do not come back to themselves when read after writing.
    """

    missing: tuple[str, ...]
    left_over: tuple[str, ...]
    shapes: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.missing) + len(self.left_over) + len(self.shapes) + len(self.changed)

    def __str__(self) -> str:
        kinds = (
            ("missing", self.missing), ("left over", self.left_over), ("of another shape", self.shapes),
            ("not the same after writing and reading", self.changed),
        )  # fmt: skip
        return "; ".join(f"{len(keys)} {kind} ({_few(keys)})" for kind, keys in kinds if keys)


def check(system: System, context: Context) -> str:
    """Compare every list of released keys with the size of the system that it belongs to.

    Raises:
        Failed: there is no list, or no size of the system has exactly its keys and shapes.
    """
    reader = goldens.module("manifest", context)
    names = [name for name in reader.manifests() if name.split("__")[0] == system.slug]
    if not names:
        raise Failed(f"no list of the released keys of {system.slug} in {goldens.folder(context)}/manifests")
    return "; ".join(_fits(system, name, reader.read(name)) for name in names)


def _fits(system: System, name: str, held: Mapping[Place, Shape]) -> str:
    found = []
    for label, sized in _sizes(system):
        found.append((difference(sized, held), label))
        if not found[-1][0].size:
            return f"{name} is {label}: {len(held)} tensors, none missing, none left over"
    nearest, label = min(found, key=lambda pair: pair[0].size)
    raise Failed(f"{name} against {label}: {nearest}")


def _sizes(system: System) -> Iterator[tuple[str, System]]:
    yield system.slug, system
    yield from ((f"{system.slug}:{name}", system.variant(name)) for name in system.variants)


def difference(system: System, held: Mapping[Place, Shape]) -> Difference:
    """Compare a system, built on `meta`, with what a release holds; a repository it says nothing of is left out."""
    from omniform.weights.adapters import adapter_shapes
    from omniform.weights.fill import slots, without_memory
    from omniform.weights.layout import BUFFERS, Place, key_at, place_of
    from omniform.weights.recast import released_shapes

    with without_memory():
        ours = slots(system.build())
    shapes = released_shapes(system, ours.shapes)
    places = {key: place_of(key, system) for key in shapes}
    here = {place: shapes[key] for key, place in places.items()}
    here |= {Place(key): shape for key, shape in adapter_shapes(system, ours.shapes).items()}
    told = {place.repository for place in held}
    tied = {place for place in held if key_at(place, system) in ours.aliases}
    extra = (p for p in held if p not in here and p not in tied and not p.key.endswith(BUFFERS))
    return Difference(
        missing=tuple(str(p) for p in here if p not in held and p.repository in told),
        left_over=tuple(map(str, extra)),
        shapes=tuple(f"{p} {held[p]}, needed {here[p]}" for p in here if p in held and held[p] != here[p]),
        changed=tuple(str(p) for key, p in places.items() if key_at(p, system) != key),
    )


def _few(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
