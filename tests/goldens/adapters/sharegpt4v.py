"""ShareGPT4V: whole models, prompts and label masks.

The original keeps padding inside when it inserts pictures, which moves nothing in rows that are padded on the right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omniform.systems import llava as systems
from omniform.systems._conversations import HUMAN, LLAMA_2, VICUNA_V1

from ..golden import Golden
from . import _family, _texts, llava

PROMPTS = {
    **llava.PROMPTS, "share4v_v1": replace(VICUNA_V1, system=HUMAN), "share4v_v0": systems.V0_ASKED,
    "share4v_llama_2": LLAMA_2,
}  # fmt: skip


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _family.whole(golden)
    if "cases" in golden.data:
        return _family.pixels(golden, {"pixel_values": 0})
    return _texts.run(golden.data, "sharegpt4v", PROMPTS)
