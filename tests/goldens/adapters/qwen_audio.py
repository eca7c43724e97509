"""Qwen-Audio: rows of sounds, the whole model on two sounds in a batch and on two in one row, the spectrogram."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omniform import index
from omniform.batch import Tree
from omniform.encoders.audio_module import log_mel
from omniform.encoders.whisper import HOP
from omniform.encoders.whisper_module import Heard

from ..golden import Golden
from ..runner import GIVEN
from ._llava import padded
from ._load import build

START = "audio_start_id"


def run(golden: Golden) -> dict[str, Any]:
    if golden.data:
        return geometry(golden)
    return spectrogram(golden) if "waveform" in golden.inputs else whole(golden)


def geometry(golden: Golden) -> dict[str, Any]:
    audio = index.system(golden.slug).continuous("audio")
    encoder: Any = audio.encoder
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["cases"]):
        size = (1, min(case["samples_16k"], encoder.window))
        rows = encoder.cells(size)[0]
        told = {
            "mel_len": size[1] // HOP, "after_cnn": encoder.frames(size), "audio_tokens": rows,
            "span_with_tags": audio.cells(size)[0], "samples_16k": GIVEN,
        }  # fmt: skip
        found |= {f"cases/{i}/{name}": value for name, value in told.items()}
    return found


def spectrogram(golden: Golden) -> dict[str, Tensor]:
    wave = golden.inputs["waveform"][None]
    filled = torch.nn.functional.pad(wave, (0, 480000 - wave.shape[1]))
    return {"logmel": log_mel(wave, 80, 16000)[0], "logmel_padded_first120": log_mel(filled, 80, 16000)[0, :, :120]}


def whole(golden: Golden) -> dict[str, Tensor]:
    model = build(index.release(golden.slug, golden.config), golden.params)
    given, first = golden.inputs, golden.config["audio"][START]
    rows = heard(model, given["input_audios"], given["input_audio_lengths"])
    mask = given["attention_mask"].bool()
    embeds = spliced(model, given["input_ids"], rows, first)
    both = heard(model, given["input_audios"].flip(0), given["lengths_two"])
    two = spliced(model, given["input_ids_two"], both, first)
    return {
        "audio0": rows[0], "audio1": rows[1], "inputs_embeds": embeds, "logits": logits(model, embeds, mask),
        "logits_two_audios": logits(model, two, torch.ones(two.shape[:2], dtype=torch.bool)),
    }  # fmt: skip


def heard(model: Any, spectrograms: Tensor, lengths: Tensor) -> list[Tensor]:
    """Rows of each sound, heard up to the end of the longest."""
    stream, longest = model.stream("audio"), 2 * int(lengths[:, 0].max())
    kept = [Heard(x[None, :, :longest], n) for x, n in zip(spectrograms, lengths[:, 0].tolist(), strict=True)]
    return [stream.connector(stream.encoder(one)).values[0] for one in kept]


def spliced(model: Any, ids: Tensor, rows: list[Tensor], first: int) -> Tensor:
    embeds = model.backbone.embed(ids)
    starts = (ids == first).nonzero().tolist()
    for (line, at), own in zip(starts, rows, strict=True):
        embeds[line, at : at + len(own)] = own
    return embeds


def logits(model: Any, embeds: Tensor, mask: Tensor) -> Tensor:
    places = mask.long().cumsum(1)[mask] - 1
    hidden = model.backbone(embeds[mask], places, Tree.of(mask.sum(1).tolist()))
    return padded(model.backbone.logits(hidden), mask)
