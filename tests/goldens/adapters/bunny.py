"""Bunny: whole models with and without scales, pixels, prompts and label masks."""

from __future__ import annotations

from typing import Any

from omniform import index
from omniform.systems import bunny
from omniform.systems._conversations import PLAIN, ending

from ..golden import Golden
from . import _family, _texts

PROMPTS = {
    "bunny": bunny.BUNNY, "phi3": bunny.PHI3, "llama": bunny.LLAMA, "minicpm": ending("</s>", bos=True), "plain": PLAIN,
}  # fmt: skip


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return _family.whole(golden)
    if "cases" in golden.data:
        one = index.system("bunny:llama-3-8b")
        return {
            **_family.pixels(golden, {"pixel_values_384": 0, "pixel_values": 0}, one),
            **_family.pixels(golden, {"pixel_values_1152_s2": 0}),
        }
    return _texts.run(golden.data, "bunny", PROMPTS)
