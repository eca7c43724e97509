"""Weights that a run starts from, and the model it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_model as save_tensors

from omniform import serial
from omniform.data.tokenizer import HfTokenizer
from omniform.model import Lmm
from omniform.weights.atomic import atomic_directory


def load_parts(model: Lmm, sources: Mapping[str, str]) -> None:
    for path in sources:
        raise NotImplementedError(path)


def save_model(model: Lmm, tokenizer: HfTokenizer, folder: Path) -> None:
    with atomic_directory(folder) as partial:
        save_tensors(model, str(partial / "model.safetensors"))
        serial.save(model.system, partial / "system.json")
        tokenizer.save(partial)
