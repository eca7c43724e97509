"""Imp: whole models, pixels, prompts and label masks."""

from __future__ import annotations

from typing import Any

from omniform.systems import imp
from omniform.systems._conversations import PLAIN

from ..golden import Golden
from . import _family, _texts

PROMPTS = {
    "phi2": imp.PHI2, "qwen2": imp.QWEN2, "qwen1.5": imp.QWEN2, "qwen1_5": imp.QWEN2, "phi3": imp.PHI3, "plain": PLAIN,
}  # fmt: skip


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _family.whole(golden)
    if "cases" in golden.data:
        return _family.pixels(golden, {"pixel_values": 0})
    return _texts.run(golden.data, "imp", PROMPTS)
