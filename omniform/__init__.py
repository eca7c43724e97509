"""omniform: any large multimodal model, written down as data and built from shared parts."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Continuous": "omniform.spec", "Shared": "omniform.spec", "Stage": "omniform.spec", "System": "omniform.spec",
    "Source": "omniform.spec", "Learn": "omniform.spec", "Lora": "omniform.spec", "Layout": "omniform.spec",
    "Prompt": "omniform.prompt", "MediaSize": "omniform.geometry", "SpecError": "omniform.geometry",
    "names": "omniform.index", "system": "omniform.index",
    "Lmm": "omniform.model", "Document": "omniform.data.document", "Processor": "omniform.data.processor",
    "open_model": "omniform.inference.load", "Engine": "omniform.inference.engine", "Chat": "omniform.inference.chat",
    "GenerationConfig": "omniform.inference.sampling",
}  # fmt: skip
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Public names load their module on first use, so that importing the package costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'omniform' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
