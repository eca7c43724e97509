"""Exactly the declared parts learn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from omniform.model import Lmm
from omniform.spec import MODALITIES, Learn, Shared
from omniform.training.lora import adapted_weights, inject, merge
from omniform.training.plain import RecipeError
from omniform.training.stages import StageRun


@dataclass(frozen=True)
class Learning:
    """What learns in a stage.

    Attributes:
        groups: (peak learning rate, named parameters) of each part.
        parts: paths of the parts, low-rank adapters included.
    """

    groups: tuple[tuple[float, Mapping[str, nn.Parameter]], ...]
    parts: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for _, group in self.groups for name, p in group.items()}


def start_learning(model: Lmm, stage: StageRun) -> Learning:
    """Make the parts of a stage learn and freeze everything else; adds the stage's low-rank adapters.

    Parts that do not learn are in evaluation mode, so that their statistics stand still too.

    Raises:
        RecipeError: two entries of the stage name the same parameter.
    """
    groups = [(_known(item.lr), parameters_that_learn(model, stage, item)) for item in stage.learn]
    parts = [item.part for item in stage.learn]
    if stage.lora:
        groups.append((stage.lora.lr, inject(model, stage.lora)))
        parts.append(stage.lora.part)
    _check_disjoint(stage, groups)
    model.requires_grad_(False)
    model.eval()
    model.training = True  # the model's own flag: parts that a batch does not use must still learn
    for path in parts:
        model.part(path).train()
    for _, group in groups:
        for parameter in group.values():
            parameter.requires_grad_(True)
    return Learning(tuple(groups), tuple(parts))


def parameters_that_learn(
    model: Lmm, stage: StageRun, item: Learn, modalities: Collection[str] = MODALITIES
) -> dict[str, nn.Parameter]:
    """Named parameters of one entry of a stage, without learned rows (newline ...) that its views never place.

    Args:
        modalities: those that the data holds.
    """
    modality, _, kind = item.part.partition(".")
    named = dict(model.parameters_of(item.part, item.first_layer))
    if kind != "connector":
        return named
    inputs: Mapping[str, Any] = model.system.inputs
    readers = [m for m, e in inputs.items() if m == modality or (isinstance(e, Shared) and e.input == modality)]
    views = [stage.views.get(m, inputs[m].views) for m in readers if m in modalities]
    placed = {row for v in views for row in v.learned}
    idle = {id(p) for name, p in model.stream(modality).learned.items() if name not in placed}
    return {name: p for name, p in named.items() if id(p) not in idle}


def taught(model: Lmm, stage: StageRun, modalities: Collection[str] = MODALITIES) -> set[str]:
    """Names of the parameters that differ after a stage; the model is without adapters."""
    names = {name for item in stage.learn for name in parameters_that_learn(model, stage, item, modalities)}
    return names | (adapted_weights(model, stage.lora.part) if stage.lora else set())


def stop_learning(model: Lmm, stage: StageRun) -> None:
    """Merge the stage's low-rank adapters into the weights they adapt, and freeze everything."""
    if stage.lora:
        merge(model, stage.lora.part)
    model.requires_grad_(False)
    model.eval()


def prefixes(model: Lmm, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Where the tensors of parts stand in the model's state, each with a dot at its end."""
    modules = [model.part(path) for path in paths]
    return tuple(f"{name}." for name, module in model.named_modules() if any(module is m for m in modules))


def _known(lr: Any) -> float:
    return float(lr)  # a resolved stage holds no Undisclosed


def _check_disjoint(stage: StageRun, groups: Sequence[tuple[float, Mapping[str, nn.Parameter]]]) -> None:
    seen: set[int] = set()
    for _, group in groups:
        for name, parameter in group.items():
            if id(parameter) in seen:
                raise RecipeError(f"stage {stage.name!r}: two entries of learn name {name}; leave it to one of them")
            seen.add(id(parameter))
