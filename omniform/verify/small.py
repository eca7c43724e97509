"""A system at `tiny` size on a few real pictures: what the stamps "train" and "generate" run on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniform.frozen import FrozenMap
from omniform.spec import Stage, System, Undisclosed
from omniform.training.recipe import Recipe, resolve_recipe
from omniform.verify.check import Failed

STEPS = 20
LR = 3e-3
"""Learning rate of every part that a stage teaches: the published ones are for pretrained weights of full size."""
ASSUMED = {"weight_decay": 0.0, "clip_norm": 1.0}
"""What a stage does where it was never published."""
DOCUMENTS = 6
DATA: Mapping[str, Mapping[str, Any]] = FrozenMap(
    image={"kind": "easy-vqa", "split": "test", "limit": DOCUMENTS}, audio={"kind": "tones", "limit": DOCUMENTS}
)
"""Modality -> what a system that reads it learns from; the first that it reads counts."""
DRAWN: Mapping[str, Mapping[str, Any]] = FrozenMap(
    image={"kind": "easy-vqa", "split": "test", "form": "drawings"},
    video={"kind": "moving-shapes", "split": "test", "form": "clips"},
    audio={"kind": "tones", "form": "sounds"},
)
"""Modality -> what a system besides learns from that answers with a signal of it."""


def modality_of(system: System) -> str:
    """The modality of the data that a system is tried on.

    Raises:
        Failed: it reads none that there is data of.
    """
    found = next((modality for modality in DATA if modality in system.inputs), None)
    if found is None:
        raise Failed(f"{system.slug} reads {', '.join(system.inputs)}; there is data of {', '.join(DATA)}")
    return found


def data_of(system: System) -> dict[str, Any]:
    """What a system is tried on; one that tells sound along with words learns from such answers."""
    modality = modality_of(system)
    return {**DATA[modality], **({"echoed": True} if modality in system.told_along else {})}


def drawn_of(system: System) -> list[dict[str, Any]]:
    """What a system besides is tried on that answers with signals: about half as many documents in all."""
    signals = [m for m in system.outputs if m in DRAWN and system.writes_signal(m)]
    return [{**DRAWN[m], "limit": max(DOCUMENTS // 2 // len(signals), 1)} for m in signals]


def small_recipe(system: System, stages: tuple[Stage, ...], folder: Path) -> Recipe:
    """A recipe of some of a system's stages, with their own prompts, views and parts that learn."""
    return resolve_recipe(
        {
            "name": "verify", "system": system.slug, "size": "tiny", "tokenizer": {"train": 512},
            "data": {"few": [*drawn_of(system), data_of(system)]},
            "stages": {stage.name: _stage(stage) for stage in stages}, "log_every": 1,
            "checkpoint": {"seconds": None}, "out": str(folder),
        }
    )  # fmt: skip


def _stage(stage: Stage) -> dict[str, Any]:
    lora = {"lora": {"lr": LR}} if stage.lora else {}
    learn = {item.part: {"lr": LR, "first_layer": min(item.first_layer, 1)} for item in stage.learn}
    unknown = {k: v for k, v in ASSUMED.items() if isinstance(getattr(stage, k), Undisclosed)}
    return {
        **unknown, **lora, "data": "few", "learn": learn, "batch": 16, "steps": STEPS, "schedule": "constant",
        "warmup": 0.1, "max_positions": 512,
    }  # fmt: skip
