"""Tensors that a release holds in another form than ours, alone (`spec.Recast`) or several as one (`spec.Joined`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from omniform.spec import Joined, Recast, System
from omniform.weights.layout import Shape, Shapes, parts_of, whole_of

# --- whole checkpoints -------------------------------------------------------------------------------------------


def released_shapes(system: System, shapes: Shapes) -> dict[str, Shape]:
    """What a release holds of our tensors (name -> shape): under the names that key rules know, in its own shapes."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        whole, there = whole_of(name, system), released_shape(system, name, shape)
        found[whole] = (found[whole][0] + there[0], *there[1:]) if whole in found else there
    return found


def apart(system: System, name: str, values: Tensor, shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    """Our tensors (name, values) that stand in a released one.

    Args:
        name: what the key rules call it.
        shapes: of ours.
    """
    joined = _joined(system, name)
    if joined is None:
        yield name, recast(system, name, values)
        return
    names = parts_of(name, joined)
    rows = [released_shape(system, part, shapes[part])[0] for part in names]
    groups = _groups(system, joined)
    pieces = values.unflatten(0, (groups, -1)).split([number // groups for number in rows], dim=1)
    for part, piece in zip(names, pieces, strict=True):
        yield part, recast(system, part, piece.flatten(0, 1).clone())


def as_released(system: System, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors in the form of the release, under the names that key rules know: the way back of `apart`."""
    members: dict[str, list[Tensor]] = {}
    for name in _in_order(system, state):
        members.setdefault(whole_of(name, system), []).append(_uncast(system, name, state[name]))
    return {whole: _together(system, whole, tensors) for whole, tensors in members.items()}


def _in_order(system: System, state: Mapping[str, Tensor]) -> list[str]:
    """Names, those of parts in the order in which their rows stand."""
    order = [part for joined in system.layout.joined for part in joined.parts]
    return sorted(state, key=lambda name: next((i for i, part in enumerate(order) if f".{part}." in name), -1))


def _together(system: System, whole: str, tensors: list[Tensor]) -> Tensor:
    joined = _joined(system, whole)
    if joined is None:
        return tensors[0]
    groups = _groups(system, joined)
    return torch.cat([t.unflatten(0, (groups, -1)) for t in tensors], dim=1).flatten(0, 1)


def _joined(system: System, name: str) -> Joined | None:
    return next((joined for joined in system.layout.joined if parts_of(name, joined)), None)


def _groups(system: System, joined: Joined) -> int:
    backbone: Any = system.backbone
    return backbone.kv_heads if joined.grouped else 1


# --- single tensors ----------------------------------------------------------------------------------------------


def released_shape(system: System, name: str, shape: Shape) -> Shape:
    """Shape in the release of one of our tensors."""
    own = _of(system, name)
    if own is None or own.form == "paired":
        return shape
    if own.form == "last rows":
        return own.rows, *shape[1:]
    return shape[-1:] if own.form == "paired shared" else (1, 1, *shape)


def recast(system: System, name: str, values: Tensor) -> Tensor:
    """A released tensor in our form."""
    own = _of(system, name)
    if own is None or own.form == "last rows":
        return values
    if own.form == "lone row":
        return values.flatten() / own.divisor
    backbone: Any = system.backbone
    # (heads, pairs, 2, ...) there, (heads, 2, pairs, ...) here
    halves = values.unflatten(0, (-1, backbone.per_head // 2, 2)).transpose(1, 2).flatten(0, 2)
    if own.form == "paired":
        return halves.contiguous()
    heads = backbone.heads if ".q_" in name else backbone.kv_heads
    return halves.expand(heads, -1).clone()


def _uncast(system: System, name: str, values: Tensor) -> Tensor:
    """One of our tensors in the released form."""
    own = _of(system, name)
    if own and own.form == "last rows":
        return values[-own.rows :]
    if own is None:
        return values
    if own.form == "lone row":
        return values[None, None] * own.divisor
    backbone: Any = system.backbone
    one = values if own.form == "paired" else values[0]
    return one.unflatten(0, (-1, 2, backbone.per_head // 2)).transpose(1, 2).flatten(0, 2)


def _of(system: System, name: str) -> Recast | None:
    return next((r for r in system.layout.recast if name.endswith(r.ends)), None)


def last_rows(system: System, name: str) -> int:
    """How many rows of one of our tensors a release holds, where the others lie elsewhere; else 0."""
    own = _of(system, name)
    return own.rows if own and own.form == "last rows" else 0
