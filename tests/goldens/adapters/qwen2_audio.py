"""Qwen2-Audio: how many rows a sound has. The numbers themselves are held against transformers' class by a test."""

from __future__ import annotations

from typing import Any

from omniform import index
from omniform.encoders.whisper import HOP

from ..golden import Golden
from ..runner import GIVEN


def run(golden: Golden) -> dict[str, Any]:
    encoder: Any = index.system(golden.slug).continuous("audio").encoder
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["cases"]):
        size = (1, case["mel_frames"] * HOP)
        told = {"mel_frames": GIVEN, "after_conv": encoder.frames(size), "audio_tokens": encoder.cells(size)[0]}
        found |= {f"cases/{i}/{name}": value for name, value in told.items()}
    return found
