"""Our own checkpoints: the system as JSON, sharded safetensors under our own names, and a checksum of every tensor.

A folder holds `system.json`, `model*.safetensors` (with an index as transformers writes it, when there are several),
`checksums.json`, and the tokenizer's files where one was given.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from omniform import serial
from omniform.parts import Part
from omniform.spec import System
from omniform.weights.atomic import atomic_directory, recover
from omniform.weights.files import INDEXES, Entry, entries, read, read_json
from omniform.weights.fill import Slots, fill, move_constants, slots, without_memory
from omniform.weights.layout import CheckpointError, LayoutError, match

SYSTEM, CHECKSUMS = "system.json", "checksums.json"
FORMAT = 1
SHARD = 2 * 2**30
"""Bytes of a file at most, unless one tensor alone is larger."""


def save(model: nn.Module, folder: str | Path, *, tokenizer: Any = None) -> None:
    """Write a model's checkpoint, whole or not at all.

    Args:
        model: an `Lmm`.
        tokenizer: a transformers tokenizer whose files go along.

    Raises:
        CheckpointError: it cannot be written; what stood there before is untouched.
    """
    state = model.state_dict()
    tensors = {name: state[name] for name in slots(model).shapes}
    system: Any = model.system
    try:
        with atomic_directory(folder) as partial:
            write(system, tensors, partial)
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}; what stood there before is untouched") from error


def write(system: System, tensors: Mapping[str, Tensor], folder: Path, shard: int = SHARD) -> None:
    """Write a system and its tensors (tied ones once) into an existing folder.

    Args:
        shard: bytes of a file at most.
    """
    groups = list(_shards(tensors, shard))
    where: dict[str, str] = {}
    sums: dict[str, int] = {}
    for number, names in enumerate(groups, 1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        part = {name: tensors[name].detach().cpu().contiguous() for name in names}
        save_file(part, folder / file)
        where |= dict.fromkeys(names, file)
        sums |= {name: checksum(values) for name, values in part.items()}
    if len(groups) > 1:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEXES[0]).write_text(json.dumps(index, indent=1), encoding="utf-8")
    text = serial.dumps(system)
    (folder / SYSTEM).write_text(text, encoding="utf-8")
    written = {"format": FORMAT, "system": zlib.crc32(text.encode()), "tensors": sums}
    (folder / CHECKSUMS).write_text(json.dumps(written, indent=1), encoding="utf-8")


def load(
    folder: str | Path,
    *,
    parts: Iterable[type[Part]] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """The `Lmm` of a checkpoint, in evaluation mode; every tensor is checked as it is read.

    Args:
        parts: part classes of the caller's own that the system is made of.
        dtype: of the weights; None keeps what was saved.

    Raises:
        CheckpointError: not a checkpoint of ours, or a file is missing, damaged or cut short.
        SerialError: its system.json does not describe a system.
    """
    place = Path(folder)
    system, sums = _described(place, parts)
    held = entries(place)
    with without_memory():
        model = system.build()
    needed = slots(model)
    _check(place, system, held, needed, sums)
    fill(model, _checked(held, needed, sums), dtype=dtype, device=device)
    move_constants(model, device)
    return model.eval()


def read_system(folder: str | Path, parts: Iterable[type[Part]] = ()) -> System:
    """The system of a checkpoint; errors as in `load`."""
    return _described(Path(folder), parts)[0]


def checksum(values: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    return zlib.crc32(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _described(folder: Path, parts: Iterable[type[Part]]) -> tuple[System, dict[str, int]]:
    """System and checksums of a checkpoint."""
    if not folder.exists():
        recover(folder)
    if not (folder / SYSTEM).is_file():
        raise CheckpointError(f"{folder} is not a checkpoint of this library: it has no {SYSTEM}")
    written = read_json(folder / CHECKSUMS)
    if written.get("format") != FORMAT or not isinstance(written.get("tensors"), dict):
        raise CheckpointError(
            f"{folder / CHECKSUMS} has format {written.get('format')!r}, this omniform reads {FORMAT}; "
            "use the omniform that wrote it"
        )
    text = (folder / SYSTEM).read_bytes()
    if zlib.crc32(text) != written.get("system"):
        raise CheckpointError(f"{folder / SYSTEM} does not match its checksum: it was changed or damaged")
    return serial.loads(text.decode("utf-8"), str(folder / SYSTEM), parts), written["tensors"]


def _check(folder: Path, system: System, held: dict[str, Entry], needed: Slots, sums: Mapping[str, int]) -> None:
    found = match({key: entry.shape for key, entry in held.items()}, needed.shapes, (("", ""),))
    if found.missing or found.left_over or found.mismatched:
        raise LayoutError(str(folder), system.slug, found.missing, found.left_over, found.mismatched)
    unsigned = [name for name in needed.shapes if name not in sums]
    if unsigned:
        raise CheckpointError(f"{folder / CHECKSUMS} lacks {len(unsigned)} tensors: {', '.join(unsigned[:3])}")


def _checked(held: dict[str, Entry], needed: Slots, sums: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    for name, values in read(held, needed.shapes):
        if checksum(values) != sums[name]:
            raise CheckpointError(
                f"{held[name].file} is damaged: {name} does not match its checksum; restore the file from a copy"
            )
        yield name, values


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterator[list[str]]:
    """Names in groups of at most `limit` bytes, in order."""
    group: list[str] = []
    size = 0
    for name, values in tensors.items():
        bytes_ = values.numel() * values.element_size()
        if group and size + bytes_ > limit:
            yield group
            group, size = [], 0
        group.append(name)
        size += bytes_
    yield group
