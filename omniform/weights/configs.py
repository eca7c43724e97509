"""Configurations of released parts, with what transformers assumes where a file leaves something out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig

from omniform.weights.files import read_json


def full_config(folder: Path) -> dict[str, Any]:
    """config.json of a plain model; of a kind that transformers does not know, as it stands.

    Raises:
        CheckpointError: the file is missing or no JSON object.
    """
    said = read_json(folder / "config.json")
    kind = said.get("model_type")
    if kind not in CONFIG_MAPPING:
        return said
    return AutoConfig.for_model(**said).to_dict()
