"""Checkpoints: directories of safetensors and JSON, written whole or not at all, and checked when they are read.

`checkpoints/STAGE_NUMBER-STEP` holds `model.safetensors`, `optimizer.safetensors` and `state.json`. A checkpoint says
what comes next. There are no random states in it: the randomness of a step is a function of seed, stage and step.

A checkpoint that cannot be read stops the run; the message names the file, and the one before is used only if the
user says so.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from omniform.weights.atomic import OLD, PARTIAL, atomic_directory, recover
from omniform.weights.layout import CheckpointError

FOLDER, MODEL, OPTIMIZER, STATE = "checkpoints", "model.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on.

    Attributes:
        state: plain data: stage and step to do next, counts, and what the weights were made from.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    found = [p for p in (run / FOLDER).glob("[0-9]*-[0-9]*") if p.is_dir()]
    return sorted(found, key=lambda p: tuple(int(n) for n in p.name.split("-")))


def clean(run: Path) -> None:
    """Remove what writers that were killed left behind."""
    for ending in (PARTIAL, OLD):
        for left in (run / FOLDER).glob(f".*{ending}"):
            recover(left.parent / left.name[1:].split(".")[0])


def write_checkpoint(run: Path, stage: int, step: int, content: Checkpoint, keep_last: int) -> Path:
    """Write a checkpoint and remove old ones.

    Raises:
        CheckpointError: the disk is full or cannot be written; earlier checkpoints are intact.
    """
    target = run / FOLDER / f"{stage}-{step:08d}"
    try:
        with atomic_directory(target) as folder:
            save_file(dict(content.model), folder / MODEL)
            save_file(dict(content.optimizer), folder / OPTIMIZER)
            sums = {name: checksum(folder / name) for name in (MODEL, OPTIMIZER)}
            state = {"format": FORMAT, **content.state, "checksums": sums}
            (folder / STATE).write_text(json.dumps({**state, "own_checksum": _own(state)}, indent=1), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        kept = checkpoints(run)
        rest = f"{kept[-1]} is intact; once there is room, start the same command again" if kept else "nothing was kept"
        raise CheckpointError(f"cannot write checkpoint {target}: {error}. {rest}") from error
    for old in checkpoints(run)[:-keep_last]:
        _remove(old)
    return target


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint, checked against its checksums.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        own = state.pop("own_checksum")
        if own != _own(state):
            raise CheckpointError(f"{folder / STATE}: does not match its checksum")
        if state["format"] != FORMAT:
            raise CheckpointError(f"{folder / STATE}: has format {state['format']}, this omniform reads {FORMAT}")
        for name, expected in state["checksums"].items():
            if checksum(folder / name) != expected:
                raise CheckpointError(f"{folder / name}: does not match its checksum")
        return Checkpoint(load_file(folder / MODEL), load_file(folder / OPTIMIZER), state)
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: missing") from error
    except CheckpointError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder / STATE}: damaged ({error})") from error


def last_checkpoint(run: Path, *, previous: bool = False) -> Checkpoint | None:
    """The newest checkpoint of a run; None if there is none.

    Args:
        previous: where the newest is damaged, take the newest that is not.

    Raises:
        CheckpointError: the newest checkpoint (with `previous`: every one) is damaged.
    """
    newest_first = checkpoints(run)[::-1]
    for number, folder in enumerate(newest_first):
        try:
            return read_checkpoint(folder)
        except CheckpointError as error:
            older = newest_first[number + 1 :]
            if not older:
                raise CheckpointError(
                    f"{error}; there is no earlier checkpoint, delete {run} to start again"
                ) from error
            if not previous:
                raise CheckpointError(
                    f"{error}; the checkpoint before is {older[0].name}: delete {folder} to go on from there"
                ) from error
    return None


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _own(state: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves no checkpoint that lacks files."""
    hidden = folder.with_name(f".{folder.name}.removed{PARTIAL}")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
