"""LLaVA: whole models of both splices, pixels, prompts and label masks.

The early code writes the positions of a picture into the prompt and overwrites them. Of several pictures in one row
only the last is really inserted, because each insertion starts again from the plain embeddings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omniform.systems import llava
from omniform.systems._conversations import CHATML_DIRECT, LLAMA_2, PLAIN, V0, VICUNA_V1
from omniform.systems.llava_next import MISTRAL_INSTRUCT

from ..golden import Golden
from . import _family, _llava, _texts

PROMPTS = {
    "v1": VICUNA_V1, "vicuna_v1": VICUNA_V1, "llava_v1": replace(VICUNA_V1, system=llava.HUMAN),
    "v0": V0, "llava_v0": llava.V0_ASKED, "llava_llama_2": LLAMA_2, "llama_2": LLAMA_2, "mpt": llava.MPT,
    "chatml_direct": CHATML_DIRECT, "mistral_direct": CHATML_DIRECT, "mistral_instruct": MISTRAL_INSTRUCT,
    "plain": PLAIN, "v0_plain": PLAIN,
}  # fmt: skip


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _family.whole(golden, habits(golden))
    if "cases" in golden.data:
        return _family.pixels(golden, {"pixel_values": 0})
    return _texts.run(golden.data, "llava", PROMPTS)


def habits(golden: Golden) -> _llava.Habits:
    if "im_patch" not in golden.config:
        return _llava.Habits()
    return _llava.Habits(
        inline=golden.config["im_patch"], last_only=True, separate={"clip.": "inputs.image.encoder."}
    )  # fmt: skip
