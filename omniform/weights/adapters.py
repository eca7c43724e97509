"""Low-rank adapters that a release holds beside the weights they belong to: peft's keys, added when these are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from omniform.spec import Adapters, System
from omniform.weights.files import ADAPTER, Entry, read, read_json
from omniform.weights.layout import CheckpointError, Shape, Shapes, place_of

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
WEIGHT = ".weight"


def adapter_shapes(system: System, shapes: Shapes) -> dict[str, Shape]:
    """Key -> shape of the adapters that a release holds; `shapes` are ours, by name."""
    said = system.layout.adapters
    found: dict[str, Shape] = {}
    for name in adapted(said, shapes) if said else ():
        down, up = _keys(system, name)
        found |= {down: (said.rank, shapes[name][1]), up: (shapes[name][0], said.rank)} if said else {}
    return found


def adapted(said: Adapters, names: Iterable[str]) -> Iterator[str]:
    """Our names of the weights that have adapters."""
    ends = tuple(f".{layer}{WEIGHT}" for layer in said.layers)
    yield from (name for name in names if name.startswith("backbone.") and name.endswith(ends))


def with_adapters(
    system: System, held: dict[str, Entry], tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors (name, values), the product of its adapters added to each that has some."""
    said = system.layout.adapters
    for name, values in tensors:
        if said and any(adapted(said, [name])):
            down, up = (t.float() for _, t in read(held, _keys(system, name)))
            yield name, (values.float() + said.alpha / said.rank * up @ down).to(values.dtype)
        else:
            yield name, values


def check_adapters(system: System, folder: Path) -> None:
    """Refuse adapters of another rank or scale than the system's.

    Raises:
        CheckpointError: their configuration says so.
    """
    said = system.layout.adapters
    if said is None or not (folder / ADAPTER).is_file():
        return
    config: Mapping[str, object] = read_json(folder / ADAPTER)
    for key, own in (("r", said.rank), ("lora_alpha", said.alpha)):
        if config.get(key, own) != own:
            raise CheckpointError(
                f"{folder / ADAPTER} says {key} {config[key]}, but {system.slug} has {own}; change layout.adapters"
            )


def _keys(system: System, name: str) -> tuple[str, str]:
    """Keys of the adapters of one of our weights."""
    said = system.layout.adapters
    stem = f"{said.prefix if said else ''}{place_of(name, system).key.removesuffix(WEIGHT)}"
    return stem + DOWN, stem + UP
