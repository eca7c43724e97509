"""Configurations of released parts, with what transformers assumes where a file leaves something out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig

from omniform.weights.files import read_json
from omniform.weights.layout import CheckpointError


def full_config(folder: Path) -> dict[str, Any]:
    """config.json of a plain model; of a kind that transformers does not know, as it stands.

    Raises:
        CheckpointError: the file is missing, no JSON object, or holds values that transformers refuses.
    """
    said = read_json(folder / "config.json")
    if said.get("model_type") not in CONFIG_MAPPING:
        return said
    try:
        return AutoConfig.for_model(**said).to_dict()
    except Exception as error:  # each version of transformers validates with errors of its own
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'config.json'} is refused by transformers: {reason}") from error
