"""Exactly the declared parts learn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omniform.model import Lmm
from omniform.spec import MODALITIES, Learn
from omniform.training.lora import adapted_weights, inject, merge
from omniform.training.plain import RecipeError
from omniform.training.stages import StageRun


class Group(NamedTuple):
    """Parameters that learn alike.

    Attributes:
        lr: peak learning rate.
        weight_decay: None is the stage's.
    """

    lr: float
    parameters: Mapping[str, nn.Parameter]
    weight_decay: float | None = None


@dataclass(frozen=True)
class Learning:
    """What learns in a stage.

    Attributes:
        groups: of each part.
        parts: paths of the parts, low-rank adapters included.
        handles: of hooks that keep rows of a table still.
    """

    groups: tuple[Group, ...]
    parts: tuple[str, ...]
    handles: tuple[RemovableHandle, ...] = ()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for group in self.groups for name, p in group.parameters.items()}


def start_learning(model: Lmm, stage: StageRun, id_of: Callable[[str], int] | None = None) -> Learning:
    """Make the parts of a stage learn and freeze everything else; adds the stage's low-rank adapters.

    Parts that do not learn are in evaluation mode, so that their statistics stand still too.

    Args:
        id_of: id of a token, where a stage learns the embeddings of some.

    Raises:
        RecipeError: two entries of the stage name the same parameter.
    """
    _join_experts(model, stage.experts == "joined")
    groups = [
        Group(_known(i.lr), parameters_that_learn(model, stage, i), 0.0 if i.tokens else i.weight_decay)
        for i in stage.learn
    ]
    parts = [item.part for item in stage.learn]
    if stage.lora:
        groups.append(Group(stage.lora.lr, inject(model, stage.lora)))
        parts.append(stage.lora.part)
    _check_disjoint(stage, groups)
    model.requires_grad_(False)
    model.eval()
    model.training = True  # the model's own flag: parts that a batch does not use must still learn
    for path in parts:
        model.part(path).train()
    for group in groups:
        for parameter in group.parameters.values():
            parameter.requires_grad_(True)
    tables = [
        (p, i.tokens) for g, i in zip(groups, stage.learn, strict=False) if i.tokens for p in g.parameters.values()
    ]
    handles = [_only_rows(table, _ids(tokens, id_of)) for table, tokens in tables]
    return Learning(tuple(groups), tuple(parts), tuple(handles))


def _ids(tokens: Sequence[str], id_of: Callable[[str], int] | None) -> list[int]:
    if id_of is None:
        raise ValueError(f"embeddings of {', '.join(tokens)} are to learn: say which rows they are (id_of)")
    return [id_of(token) for token in tokens]


def _only_rows(table: nn.Parameter, rows: list[int]) -> RemovableHandle:
    """Let some rows of a table learn: the gradient of the others is zero."""

    def kept(gradient: Tensor) -> Tensor:
        found = torch.zeros_like(gradient)
        found[rows] = gradient[rows]
        return found

    return table.register_hook(kept)


def parameters_that_learn(
    model: Lmm, stage: StageRun, item: Learn, modalities: Collection[str] = MODALITIES
) -> dict[str, nn.Parameter]:
    """Named parameters of one entry of a stage, without learned rows (newline ...) that its views never place.

    Args:
        modalities: those that the data holds.
    """
    modality, _, kind = item.part.partition(".")
    named = dict(model.parameters_of(item.part, item.first_layer))
    if item.tokens:
        lm = model.backbone.lm
        tables = (lm.get_input_embeddings(), *((lm.get_output_embeddings(),) if item.head else ()))
        return {name: p for name, p in named.items() if any(p is table.weight for table in tables)}
    if item.part == "backbone":
        return {name: p for name, p in named.items() if not name.startswith(_waiting(model, stage))}
    if kind != "connector":
        return named
    inputs: Mapping[str, Any] = model.system.inputs
    readers = [m for m in inputs if model.system.owner(m) == modality]
    views = [stage.views.get(m, inputs[m].views) for m in readers if m in modalities]
    placed = {row for v in views for row in v.learned}
    idle = {id(p) for name, p in model.stream(modality).learned.items() if name not in placed}
    return {name: p for name, p in named.items() if id(p) not in idle}


def taught(model: Lmm, stage: StageRun, modalities: Collection[str] = MODALITIES) -> set[str]:
    """Names of the parameters that differ after a stage; the model is without adapters."""
    names = {name for item in stage.learn for name in parameters_that_learn(model, stage, item, modalities)}
    if _waiting(model, stage) and any(item.part == "backbone" for item in stage.learn):
        names |= {n for n, _ in model.parameters_of("backbone.experts") if n not in names and ".experts." in n[9:]}
    return names | (adapted_weights(model, stage.lora) if stage.lora else set())


def stop_learning(model: Lmm, stage: StageRun, learning: Learning | None = None) -> None:
    """Merge the stage's low-rank adapters into the weights they adapt, and freeze everything."""
    for handle in learning.handles if learning else ():
        handle.remove()
    if stage.lora:
        merge(model, stage.lora.part)
    if stage.experts == "joined" and model.system.backbone.experts_part:
        model.backbone.experts.spread()
    _join_experts(model, False)
    model.requires_grad_(False)
    model.eval()


def _waiting(model: Lmm, stage: StageRun) -> tuple[str, ...]:
    """Prefixes of what takes no part while a stage's experts are joined."""
    if stage.experts != "joined" or not model.system.backbone.experts_part:
        return ()
    return tuple(f"backbone.experts.{prefix}" for prefix in model.backbone.experts.copies())


def _join_experts(model: Lmm, joined: bool) -> None:
    if model.system.backbone.experts_part:
        model.backbone.experts.joined = joined


def prefixes(model: Lmm, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Where the tensors of parts stand in the model's state, each with a dot at its end."""
    modules = [model.part(path) for path in paths]
    return tuple(f"{name}." for name, module in model.named_modules() if any(module is m for m in modules))


def _known(lr: Any) -> float:
    return float(lr)  # a resolved stage holds no Undisclosed


def _check_disjoint(stage: StageRun, groups: Sequence[Group]) -> None:
    seen: set[int] = set()
    for group in groups:
        for name, parameter in group.parameters.items():
            if id(parameter) in seen:
                raise RecipeError(f"stage {stage.name!r}: two entries of learn name {name}; leave it to one of them")
            seen.add(id(parameter))
