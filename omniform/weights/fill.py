"""Modules without memory, and tensors put into them one by one: no second copy of the weights at any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omniform.weights.layout import Shape


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules built inside hold their parameters on `meta`; buffers, which code computes, are real."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(self, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@dataclass(frozen=True)
class Slots:
    """What a module needs of a checkpoint.

    Attributes:
        shapes: name -> shape, of parameters and saved buffers; tied tensors once.
        aliases: second name of a tied tensor -> its first name.
    """

    shapes: dict[str, Shape]
    aliases: dict[str, str]


def slots(module: nn.Module) -> Slots:
    """Names and shapes of everything that a checkpoint of the module holds."""
    first: dict[int, str] = {}
    shapes: dict[str, Shape] = {}
    aliases: dict[str, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        known = first.setdefault(id(tensor), name)
        if known == name:
            shapes[name] = tuple(tensor.shape)
        else:
            aliases[name] = known
    return Slots(shapes, aliases)


def fill(
    module: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Put tensors in place of a module's parameters and saved buffers, tied ones under all their names.

    Args:
        tensors: (name, values) pairs; they are taken over, not copied, where dtype and device already fit.
        dtype: what floating-point numbers become; None keeps each as it is.
    """
    names: dict[str, list[str]] = {}
    for alias, known in slots(module).aliases.items():
        names.setdefault(known, []).append(alias)
    for name, values in tensors:
        kind = dtype if dtype is not None and values.is_floating_point() else values.dtype
        put(module, (name, *names.get(name, ())), values.to(device=device, dtype=kind))


def move_constants(module: nn.Module, device: torch.device | str) -> None:
    """Buffers that code computed follow the weights to their device, in their own precision."""
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)


def put(module: nn.Module, names: Iterable[str], values: Tensor) -> None:
    """One tensor under one or several (tied) names of a module."""
    parameter: Any = None
    for name in names:
        owner, _, leaf = name.rpartition(".")
        part = module.get_submodule(owner)
        if leaf in part._parameters:
            old = part._parameters[leaf]
            learns = old is not None and old.requires_grad
            parameter = nn.Parameter(values, requires_grad=learns) if parameter is None else parameter
            part._parameters[leaf] = parameter
        else:
            part._buffers[leaf] = values
