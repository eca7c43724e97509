"""Tensors that a release holds in another form than ours: `spec.Recast`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omniform.spec import Recast, System
from omniform.weights.layout import Shape


def released_shape(system: System, name: str, shape: Shape) -> Shape:
    """Shape in the release of one of our tensors."""
    own = _of(system, name)
    return shape[-1:] if own and own.form == "paired shared" else shape


def recast(system: System, name: str, values: Tensor) -> Tensor:
    """A released tensor in our form."""
    own = _of(system, name)
    if own is None:
        return values
    backbone: Any = system.backbone
    # (heads, pairs, 2, ...) there, (heads, 2, pairs, ...) here
    halves = values.unflatten(0, (-1, backbone.per_head // 2, 2)).transpose(1, 2).flatten(0, 2)
    if own.form == "paired":
        return halves.contiguous()
    heads = backbone.heads if ".q_" in name else backbone.kv_heads
    return halves.expand(heads, -1).clone()


def _of(system: System, name: str) -> Recast | None:
    return next((r for r in system.layout.recast if name.endswith(r.ends)), None)
