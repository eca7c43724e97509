"""Stamp "layout": the keys and shapes of a released checkpoint and ours are the same set, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from omniform.spec import System
from omniform.verify.check import Context, Failed
from omniform.verify.manifest import Manifest, manifest


@dataclass(frozen=True)
class Difference:
    """What of a checkpoint and a system does not meet; released names.

    Attributes:
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
            ("missing in the release", self.missing), ("left over in the release", self.left_over),
            ("of another shape", self.shapes), ("not the same after writing and reading", self.changed),
        )  # fmt: skip
        return "; ".join(f"{len(keys)} {kind} ({_few(keys)})" for kind, keys in kinds if keys)


def check(system: System, context: Context) -> str:
    """Compare the base, or the variant that the manifest describes, with the manifest.

    Raises:
        Failed: there is no manifest, or no size of the system has exactly its keys and shapes.
    """
    reference = manifest(system.slug)
    sizes = {system.slug: system, **{f"{system.slug}:{v}": system.variant(v) for v in system.variants}}
    nearest: tuple[int, str, Difference] | None = None
    for name, sized in sizes.items():
        found = difference(sized, reference)
        if not found.size:
            return f"{name} and {reference.variant}: {len(reference.shapes)} tensors, none missing, none left over"
        if nearest is None or found.size < nearest[0]:
            nearest = (found.size, name, found)
    assert nearest is not None
    raise Failed(f"{nearest[1]} and {reference.variant}: {nearest[2]}")


def difference(system: System, reference: Manifest) -> Difference:
    """Compare a system, built on `meta`, with a manifest."""
    import torch

    from omniform.weights.fill import slots
    from omniform.weights.layout import BUFFERS, key_at, place_of

    with torch.device("meta"):
        needed = slots(system.build()).shapes
    places = {key: place_of(key, system) for key in needed}
    shapes = {str(place): needed[key] for key, place in places.items()}
    held = {key: shape for key, shape in reference.shapes.items() if not key.endswith(BUFFERS)}
    return Difference(
        missing=tuple(k for k in shapes if k not in held),
        left_over=tuple(k for k in held if k not in shapes),
        shapes=tuple(f"{k} {held[k]} there, {shapes[k]} here" for k in shapes if k in held and held[k] != shapes[k]),
        changed=tuple(str(place) for key, place in places.items() if key_at(place, system) != key),
    )


def _few(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
