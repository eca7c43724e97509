"""Where a run is, and what of its model has to be saved to get back there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor

from omniform.model import Lmm
from omniform.training.freeze import parameters_that_learn, prefixes
from omniform.training.lora import plain_name
from omniform.training.stages import StageRun
from omniform.weights.layout import CheckpointError


@dataclass
class Window:
    """Sums since the last record."""

    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    documents: int = 0
    positions: int = 0
    seconds: float = 0.0


@dataclass
class RunState:
    """What is done.

    Attributes:
        stage, step: what comes next: step `step` of stage number `stage`.
        overall: steps done in all stages.
        seconds: time spent, over all resumptions.
        skipped_media: documents left out because a medium could not be read.
        truncated: documents that lost words because they were too long.
        empty_steps: steps without anything to learn, which changed nothing.
        last_problem: why the last document was left out.
    """

    stage: int = 0
    step: int = 0
    overall: int = 0
    documents: int = 0
    positions: int = 0
    seconds: float = 0.0
    skipped_media: int = 0
    truncated: int = 0
    empty_steps: int = 0
    last_problem: str = ""
    window: Window = field(default_factory=Window)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        own = {f.name: plain[f.name] for f in fields(cls)}
        return cls(**{**own, "window": Window(**own["window"])})


def saved_tensors(model: Lmm, given: tuple[str, ...], done: tuple[StageRun, ...]) -> dict[str, Tensor]:
    """The tensors of a model that cannot be had again from the recipe, by name; those that share memory once.

    Args:
        given: parts that start from released weights.
        done: stages that ran, the current one included: what they taught differs from the given weights.
    """
    whole = {item.part for stage in done for item in stage.learn if not item.tokens}
    learns = whole | {s.lora.part for s in done if s.lora}
    taught = {plain_name(name) for s in done for i in s.learn for name in parameters_that_learn(model, s, i)}
    kept_out = prefixes(model, tuple(p for p in given if p not in learns))
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.state_dict().items():
        place = tensor.data_ptr(), tensor.shape
        unneeded = name.startswith(kept_out) and plain_name(name) not in taught
        if not unneeded and (place not in seen or not tensor.numel()):
            seen.add(place)
            found[name] = tensor.contiguous()
    return found


@torch.no_grad()
def restore_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's tensors into the model's own (`saved_tensors`).

    Raises:
        CheckpointError: names or shapes differ.
    """
    for name in dict.fromkeys((*wanted, *tensors)):
        if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape:
            have, need = (tuple(d[name].shape) if name in d else "nothing" for d in (tensors, wanted))
            raise CheckpointError(f"tensor {name}: the checkpoint holds {have}, the model {need}; code or data changed")
        wanted[name].copy_(tensors[name])
