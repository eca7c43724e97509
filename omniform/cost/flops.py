"""Positions of media, and forward FLOPs of reading and answering.

FLOPs count a multiply-add as 2, in linear layers, convolutions and attention. Attention counts the full square of its
positions, as PyTorch's counter and the usual figure of model FLOPs utilisation do (arXiv:2204.02311 appendix B), though
causal kernels do half of it. Norms, activations, rotation, resampling and embedding look-ups are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from omniform.frozen import FrozenMap
from omniform.geometry import MediaSize, Plan
from omniform.parts import Views
from omniform.spec import Continuous, Discrete, System

Media = Sequence[tuple[str, MediaSize]]
"""(modality, size) of the media of one document."""


def positions(system: System, modality: str, media: MediaSize) -> int:
    """Positions that one medium alone in its document takes; text between its rows not counted."""
    return system.read(modality).positions(system.plan(modality, media))


def plans(system: System, media: Media, views: Mapping[str, Views] = FrozenMap()) -> list[Plan]:
    """Plan of each medium of one document; `views` of a stage replace the system's."""
    read = [(modality, system.read(modality), size) for modality, size in media]
    chosen = [(views.get(modality, entry.views), entry, size) for modality, entry, size in read]
    return [strategy.among(len(media)).plan(size, entry.sight()) for strategy, entry, size in chosen]


def prefill_flops(system: System, media: Media, text_positions: int) -> dict[str, int]:
    """Part path -> forward FLOPs of reading one document and giving the logits of the next token."""
    found: dict[str, int] = {}
    rows: dict[str, int] = {}
    length = text_positions
    for (modality, _), plan in zip(media, plans(system, media), strict=True):
        entry, name = system.read(modality), system.owner(modality)
        for part, flops in _media_flops(entry, plan, system.backbone.dim).items():
            path = f"{system.reader(modality) if part == 'encoder' else name}.{part}"
            found[path] = found.get(path, 0) + flops
        rows[name] = rows.get(name, 0) + plan.positions
        length += entry.positions(plan)
    backbone = system.backbone
    read = backbone.read_flops(length)
    return {**found, **fusion_flops(system, length, rows), "backbone": read + backbone.head_flops()}


def fusion_flops(system: System, positions: int, rows: Mapping[str, int]) -> dict[str, int]:
    """Part path -> forward FLOPs of fusions where the backbone reads positions that see rows of media, by input."""
    backbone = system.backbone
    found = {
        f"{name}.fusion": entry.fusion.flops(backbone, entry.width(backbone.dim), positions, rows.get(name, 0))
        for name, entry in system.inputs.items()
        if isinstance(entry, Continuous)
    }
    return {part: flops for part, flops in found.items() if flops}


def decode_flops(system: System, positions: int) -> int:
    """FLOPs of one more token after `positions` positions in the cache; rows of media out of sequence not counted.

    What is told along with it counts, as with the first token of an answer; sound is made of it later.
    """
    backbone = system.backbone
    own = sum(fusion_flops(system, 1, FrozenMap()).values())
    own += sum(output.flops(backbone.dim, 1) for output in system.told_along.values())
    return own + backbone.next_flops(positions) + backbone.head_flops()


def kv_cache_bytes(system: System, positions: int, dtype_bytes: int = 2) -> int:
    """Bytes that decoding keeps of one document: keys and values, or a state."""
    backbone = system.backbone
    return positions * backbone.kv_bytes_per_position(dtype_bytes) + backbone.state_bytes(dtype_bytes)


def _media_flops(entry: Continuous | Discrete, plan: Plan, dim: int) -> dict[str, int]:
    if isinstance(entry, Discrete):
        return {"codec": len(plan.views) * entry.codec.flops(entry.codec.extent(plan.size))}
    # views of several scales are joined before the connector, which sees those of the last scale, or are averaged
    sets = 1 if plan.averaged else len(plan.views) // entry.encoder.together
    connected = prod(plan.scales[-1].tiles) if plan.scales else sets
    connector: Any = entry.connector  # takes as many grids as it reads encoders
    return {
        "encoder": len(plan.views) * entry.encoder.flops(plan.size),
        "connector": connected * connector.flops(*entry.encoder.grids(plan.size), **entry.widths(dim)),
    }
