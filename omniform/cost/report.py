"""All costs of one kind of document in one place, for people and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omniform.cost.flops import Media, decode_flops, kv_cache_bytes, plans, prefill_flops
from omniform.cost.memory import FLOAT32, Precision, TrainingMemory, training_memory
from omniform.cost.parameters import parameters
from omniform.geometry import MediaSize, Plan, Resample, Span, View
from omniform.spec import Stage, System


@dataclass(frozen=True)
class MediumCost:
    """One medium of the document: its size, the views the encoder sees, the positions it takes.

    Attributes:
        heard: seconds of a sound that its views hold; what a system does not take is left out.
    """

    modality: str
    size: MediaSize
    views: int
    positions: int
    heard: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; sound has other measures than pictures."""
        size = self.size
        measures: dict[str, Any] = {"width": size.width, "height": size.height, "frames": size.frames}
        if size.samples:
            measures = {"samples": size.samples, "rate": size.rate, "heard": self.heard}
        if size.fps:
            measures["fps"] = size.fps
        return {"modality": self.modality, **measures, "views": self.views, "positions": self.positions}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one document costs.

    Attributes:
        parameters: part path -> parameters.
        prefill_flops: part path -> forward FLOPs of reading the document.
        decode_flops: FLOPs of the first token after it.
        kv_cache_bytes: what decoding keeps of the document: keys and values, or a state.
        training: stage -> memory of a step of `documents` such documents.
    """

    system: str
    parameters: Mapping[str, int]
    media: tuple[MediumCost, ...]
    text_positions: int
    prefill_flops: Mapping[str, int]
    decode_flops: int
    kv_cache_bytes: int
    documents: int
    training: Mapping[str, TrainingMemory]

    @property
    def positions(self) -> int:
        return self.text_positions + sum(medium.positions for medium in self.media)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, totals included."""
        return {
            "system": self.system,
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            "media": [medium.as_dict() for medium in self.media],
            "positions": self.positions,
            "text_positions": self.text_positions,
            "prefill_flops": {**self.prefill_flops, "total": sum(self.prefill_flops.values())},
            "decode_flops": self.decode_flops,
            "kv_cache_bytes": self.kv_cache_bytes,
            "documents": self.documents,
            "training": {name: {**vars(memory), "total": memory.total} for name, memory in self.training.items()},
        }


def heard(size: MediaSize, plan: Plan) -> float:
    """Seconds of a sound that its views hold, what several of them hold once; 0 of what is seen."""
    held = sorted(_held(size, view) for view in plan.views) if size.samples else []
    total, done = 0.0, 0.0
    for start, stop in held:
        total += max(0.0, stop - max(start, done))
        done = max(done, stop)
    return total


def _held(size: MediaSize, view: View) -> tuple[float, float]:
    """Seconds at which what a view holds of a sound begins and ends."""
    rate = next((step.rate for step in view.steps if isinstance(step, Resample)), size.rate)
    spans = [(step.start / rate, (step.start + step.samples) / rate) for step in view.steps if isinstance(step, Span)]
    start, stop = spans[0] if spans else (0.0, size.seconds)
    return start, min(stop, size.seconds)


def cost(
    system: System,
    media: Media,
    text_positions: int,
    *,
    documents: int = 1,
    dtype_bytes: int = 2,
    precision: Precision = FLOAT32,
    checkpointing: bool = False,
) -> Cost:
    """The cost of reading, answering and learning from documents of some media and some text.

    Args:
        dtype_bytes: bytes of a value in the cache.
        documents: documents of a training step; their text is learned.
    """
    seen = tuple(
        MediumCost(m, size, len(plan.views), system.read(m).positions(plan), heard(size, plan))
        for (m, size), plan in zip(media, plans(system, media), strict=True)
    )
    length = text_positions + sum(medium.positions for medium in seen)
    step: dict[str, Any] = {"documents": documents, "precision": precision, "checkpointing": checkpointing}
    return Cost(
        system=system.slug,
        parameters=parameters(system),
        media=seen,
        text_positions=text_positions,
        prefill_flops=prefill_flops(system, media, text_positions),
        decode_flops=decode_flops(system, length),
        kv_cache_bytes=kv_cache_bytes(system, length, dtype_bytes),
        documents=documents,
        training={stage.name: _step_memory(system, stage, media, text_positions, **step) for stage in system.stages},
    )


def _step_memory(
    system: System, stage: Stage, media: Media, text_positions: int, documents: int, **options: Any
) -> TrainingMemory:
    """Memory of a step of equal documents, their media laid out as the stage does."""
    length, views = text_positions, dict[str, int]()
    for (modality, _), plan in zip(media, plans(system, media, stage.views), strict=True):
        length += system.read(modality).positions(plan)
        name = system.reader(modality)
        views[name] = views.get(name, 0) + documents * len(plan.views)
    learned = documents * text_positions
    return training_memory(system, stage, documents * length, views=views, learned=learned, **options)
