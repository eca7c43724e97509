"""Tensors in a folder as published checkpoints lie on disk: names and shapes first, values shard by shard.

Safetensors are preferred; `.bin` files are opened as tensors only (`weights_only`), never as pickled code.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omniform.weights.layout import CheckpointError, Shape

INDEXES = (
    "model.safetensors.index.json", "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.bin.index.json",
)  # fmt: skip
SINGLE = (
    "model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin",
)  # fmt: skip
PIPELINE = "model_index.json"
"""What a directory of several models has, as diffusers writes them."""
ADAPTER = "adapter_config.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
CHUNK = 64 * 2**20
"""Bytes read before a file is opened anew: pages of a mapped file count as memory until it is closed."""

Read: TypeAlias = Callable[[str], Tensor]


@dataclass(frozen=True)
class Entry:
    """One stored tensor: its file, and its key there."""

    file: Path
    key: str
    shape: Shape
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * int(torch.Size(self.shape).numel())


def entries(folder: Path, *, adapters: bool = False) -> dict[str, Entry]:
    """Key -> tensor, of the checkpoint in a folder, or of one file; values are not read.

    Keys of a directory of several models begin with the model's sub-folder: "unet/conv_in.weight".

    Args:
        adapters: whether it may hold low-rank adapters alone.

    Raises:
        CheckpointError: no checkpoint, a shard is missing, damaged or cut short, or a file holds more than tensors.
    """
    found: dict[str, Entry] = {}
    if folder.is_file():
        contents = _contents(folder).items()
        return {key: Entry(folder, key, shape, dtype) for key, (shape, dtype) in contents}
    if (folder / PIPELINE).is_file():
        models = sorted(f for f in folder.iterdir() if any((f / name).is_file() for name in (*INDEXES, *SINGLE)))
        return {f"{model.name}/{key}": entry for model in models for key, entry in entries(model).items()}
    for file in weight_files(folder, adapters=adapters):
        for key, (shape, dtype) in _contents(file).items():
            if key in found:
                raise CheckpointError(f"{found[key].file} and {file} both hold {key}; remove one of them")
            found[key] = Entry(file, key, shape, dtype)
    return found


def read(held: dict[str, Entry], keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Values of some tensors, file by file, each a copy of its own."""
    by_file: dict[Path, list[str]] = {}
    for key in keys:
        by_file.setdefault(held[key].file, []).append(key)
    for file, members in by_file.items():
        for part in _chunks(held, members, file):
            with opened(file) as get:
                for key in part:
                    yield key, get(held[key].key)


def weight_files(folder: Path, *, adapters: bool = False) -> tuple[Path, ...]:
    """Files of the checkpoint in a folder; one file is itself.

    Raises:
        CheckpointError: none is there, or an index names one that is not.
    """
    if folder.is_file():
        return (folder,)
    for index, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / index).is_file():
            return _indexed(folder / index)
        if (folder / single).is_file():
            return (folder / single,)
    alone = next((folder / name for name in ADAPTERS if (folder / name).is_file()), None)
    if adapters and alone:
        return (alone,)
    if (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder} holds low-rank adapters, not a whole model; merge them into their base first "
            "(peft: PeftModel.merge_and_unload)"
        )
    for pattern in ("*.safetensors", "*.bin", "*.pth", "*.pt", "checkpoints/*.pt", "pretrained*.pth.tar"):
        files = sorted(f for f in folder.glob(pattern) if f.name != "training_args.bin")
        if len(files) == 1:
            return (files[0],)
    held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise CheckpointError(f"{folder} holds no weights: looked for {', '.join(SINGLE + INDEXES)}, found {held}")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent} has no {file.name}; is it the folder of a released model?") from error
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds {type(data).__name__}, not a JSON object")
    return data


@contextmanager
def opened(file: Path) -> Iterator[Read]:
    """A function that reads one tensor of a file, as a copy that does not hang on it.

    Raises:
        CheckpointError: the file is damaged or cut short, or holds more than tensors.
    """
    if file.suffix == ".safetensors":
        with _safetensors(file) as handle:
            yield lambda key: handle.get_tensor(key).clone()
    else:
        tensors = _torch_file(file, "cpu")
        mapped = zipfile.is_zipfile(file)
        yield lambda key: tensors[key].clone() if mapped else tensors.pop(key)


def _indexed(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map from keys to files")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} points outside its folder: {name!r}")
    lost = [name for name in names if not (index.parent / name).is_file()]
    if lost:
        raise CheckpointError(
            f"{index.parent} lacks {len(lost)} of {len(names)} files that {index.name} names: {', '.join(lost[:3])}; "
            "fetch them again"
        )
    return tuple(index.parent / name for name in names)


def _chunks(held: dict[str, Entry], keys: list[str], file: Path) -> Iterator[list[str]]:
    """Keys in portions of about `CHUNK` bytes, where opening a file again costs little."""
    if file.suffix != ".safetensors" and not zipfile.is_zipfile(file):
        yield keys
        return
    part: list[str] = []
    size = 0
    for key in keys:
        part.append(key)
        size += held[key].bytes
        if size >= CHUNK:
            yield part
            part, size = [], 0
    yield part


def _contents(file: Path) -> dict[str, tuple[Shape, torch.dtype]]:
    if file.suffix == ".safetensors":
        with _safetensors(file) as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118
            return {key: (tuple(s.get_shape()), _dtype(s.get_dtype(), file)) for key, s in slices.items()}
    return {key: (tuple(t.shape), t.dtype) for key, t in _torch_file(file, "meta").items()}


def _dtype(name: str, file: Path) -> torch.dtype:
    known = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
        "BOOL": torch.bool,
    }  # fmt: skip
    if name not in known:
        raise CheckpointError(f"{file} holds {name} numbers; give weights in {', '.join(known)}")
    return known[name]


def _safetensors(file: Path) -> Any:
    try:
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or cut short ({error}); fetch or copy it again") from error


def _torch_file(file: Path, device: str) -> dict[str, Tensor]:
    try:
        tensors = torch.load(file, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is refused: it holds pickled objects other than tensors, which can run code when opened; "
            "use a safetensors release"
        ) from error
    except Exception as error:  # the restricted reader fails in many ways on what is no such file
        with file.open("rb") as start:
            bare = start.read(1) == pickle.PROTO
        what = "is refused: a pickle of something other than tensors, or" if bare else "is"
        raise CheckpointError(f"{file} {what} damaged or cut short ({_first_line(error)}); fetch it again") from error
    (only,) = tensors if isinstance(tensors, dict) and len(tensors) == 1 else ("",)
    whole = only in ("model", "state_dict") and isinstance(tensors[only], dict)
    return _flat(tensors[only] if whole else tensors, file)


def _flat(tensors: Any, file: Path) -> dict[str, Tensor]:
    """A dictionary of tensors, and of dictionaries of tensors, whose keys are joined by dots; a lone tensor has the key
    ""."""
    if isinstance(tensors, Tensor):
        return {"": tensors}
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{file} holds something other than a dictionary of tensors")
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if isinstance(value, Tensor):
            found[key] = value
        else:
            found |= {f"{key}.{inner}": t for inner, t in _flat(value, file).items()}
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
