"""Memory of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from omniform.cost.parameters import adapter_params, learning, parameters
from omniform.frozen import FrozenMap
from omniform.index import unknown
from omniform.spec import Discrete, Stage, System


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes of one value.

    Attributes:
        weights: of every part, frozen or not.
        copies: low-precision copies of the weights, as autocast makes them.
        gradients, moments: of what learns; Adam keeps two moments.
        activations: of what is kept for the backward pass.
    """

    weights: int = 4
    copies: int = 0
    gradients: int = 4
    moments: int = 4
    activations: int = 4


FLOAT32 = Precision()
AUTOCAST = Precision(copies=2, activations=2)
"""bfloat16 autocast over float32 weights."""


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes that one training step needs on one device; the first three exact, the others estimates.

    Attributes:
        weights, gradients, optimizer: of all parts; of what learns; Adam's two moments of what learns.
        activations: what is kept for the backward pass.
        logits: float32 log-probabilities of the learned positions, and their gradient.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))


def training_memory(
    system: System,
    stage: Stage,
    positions: int,
    *,
    views: Mapping[str, int] = FrozenMap(),
    learned: int | None = None,
    precision: Precision = FLOAT32,
    checkpointing: bool = False,
) -> TrainingMemory:
    """Memory of one step of a stage with AdamW.

    Activations are estimated. Backbone: `positions` x layers that gradients pass x `activation_values` (which see);
    with checkpointing the width for each layer, and one layer whole. Encoders and connectors that gradients pass:
    inputs and outputs of their layers, which is their forward FLOPs / the width of what they give. Buffers of
    libraries, fragmentation and the copies of distributed training are not counted.

    Args:
        positions: packed positions of the step, media included.
        views: input -> views encoded in the step.
        learned: learned positions; all of them by default.

    Raises:
        UnknownName: `views` names no continuous input.
    """
    adapters = adapter_params(system, stage)
    weights = sum(parameters(system).values()) + adapters
    learns = sum(learning(system, stage).values())
    kept = _backbone_values(system, stage, positions, checkpointing) + _media_values(system, stage, views)
    rows = positions if learned is None else learned
    return TrainingMemory(
        weights=weights * (precision.weights + precision.copies),
        gradients=learns * precision.gradients,
        optimizer=2 * learns * precision.moments,
        activations=kept * precision.activations,
        logits=2 * 4 * rows * system.backbone.vocab,
    )


def _backbone_values(system: System, stage: Stage, positions: int, checkpointing: bool) -> int:
    """Values that the backbone keeps: nothing below the first layer that gradients reach."""
    backbone = system.backbone
    own = next((item for item in stage.learn if item.part == "backbone"), None)
    below = any(item.part.partition(".")[2] in ("encoder", "connector", "fusion") for item in stage.learn)
    first = own.first_layer if own and not below and not stage.lora else 0
    layers = backbone.layers - first
    each = backbone.activation_values(learns=own is not None and not own.tokens)
    return positions * (layers * backbone.dim + each if checkpointing else layers * each)


def _media_values(system: System, stage: Stage, views: Mapping[str, int]) -> int:
    learn = {item.part for item in stage.learn}
    dim, total = system.backbone.dim, 0
    for modality, count in views.items():
        entry = system.inputs.get(modality)
        if isinstance(entry, Discrete):
            continue  # codecs stand still
        if modality not in system.encoders:
            raise unknown(f"continuous input of {system.slug}", modality, system.encoders)
        entry = system.continuous(modality)
        size, connector = entry.encoder.size, cast(Any, entry.connector)  # takes as many grids as it reads encoders
        if f"{modality}.encoder" in learn:
            total += count * entry.encoder.flops(size) // entry.encoder.dim
        if {f"{modality}.encoder", f"{system.owner(modality)}.connector"} & learn:
            total += count * connector.flops(*entry.encoder.grids(size), **entry.widths(dim)) // entry.width(dim)
    return total
