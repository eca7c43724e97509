"""SALMONN: the whole model on two sounds of a padded batch, and how many windows there are.

The golden holds the language model with adapters inside, so its own weights stand at "base_layer".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Tree
from omniform.encoders.beats_module import pooled
from omniform.spec import System
from omniform.systems.salmonn import FORMER, WindowQFormer, window_cells

from ..golden import Golden
from ..runner import GIVEN
from ._llava import IGNORED, padded
from ._load import build

LLAMA, LAYER = "llama_model.base_model.model.", "model.layers.{}.self_attn.{}."
GIVEN_KEYS = ("frames", "second_per_window", "second_stride")


def run(golden: Golden) -> dict[str, Any]:
    return geometry(golden) if golden.data else whole(golden)


def geometry(golden: Golden) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, case in enumerate(golden.data["cases"]):
        kernel, stride = window_cells(case["second_per_window"]), window_cells(case["second_stride"])
        windows = WindowQFormer(inner=FORMER, kernel=kernel, stride=stride).windows((case["frames"],))
        last = (windows - 1) * stride
        told = {
            "kernel": kernel, "stride": stride, "windows": windows, "first_window": [0, kernel - 1],
            "last_window": [last, last + kernel - 1], **dict.fromkeys(GIVEN_KEYS, GIVEN),
        }  # fmt: skip
        found |= {f"cases/{i}/{key}": value for key, value in told.items()}
    return found


def whole(golden: Golden) -> dict[str, Tensor]:
    config = golden.config
    named = {f"{part}_config": config[part] for part in ("whisper", "beats", "qformer", "llama")}
    system = index.release(golden.slug, {**config, **named})
    model = build(system, golden.params, dict(_inside(system)))
    stream, given = model.stream("audio"), golden.inputs
    whisper, beats = stream.encoder.members
    spoken = whisper(given["spectrogram"])
    banks = beats.normalise(given["waveform"][:, None])
    cells = beats.spec.cells((1, given["waveform"].shape[1]))
    heard = beats(banks, pooled(given["padding_mask"], banks.shape[1], cells[0] * cells[1]))
    rows = stream.connector(spoken, heard).values
    count, pad = len(rows), config["llama"]["vocab_size"] - 1
    start = torch.full((1, 1), config["llama"]["bos_token_id"])
    before, after = (torch.cat(ids, dim=1).expand(count, -1) for ids in (
        [start, given["prompt_before_ids"]], [given["prompt_after_ids"]],
    ))  # fmt: skip
    said = given["text_ids"]
    embed = model.backbone.embed
    embeds = torch.cat([embed(before), rows, embed(after), embed(said)], dim=1)
    silent = torch.full((count, embeds.shape[1] - said.shape[1]), IGNORED)
    labels = torch.cat([silent, said.masked_fill(said == pad, IGNORED)], dim=1)
    mask = torch.cat([torch.ones_like(silent, dtype=torch.bool), said != pad], dim=1)
    lengths = mask.sum(1).tolist()
    places = torch.cat([torch.arange(n) for n in lengths])
    logits = padded(model.backbone.logits(model.backbone(embeds[mask], places, Tree.of(lengths))), mask)
    return {
        "whisper": spoken.values, "beats": heard.values, "connector": rows, "inputs_embeds": embeds,
        "attention_mask": mask.long(), "labels": labels, "logits": logits,
        "loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)[None],
    }  # fmt: skip


def _inside(system: System) -> Iterator[tuple[str, str]]:
    """The golden's prefixes of the language model, adapters inside, and ours."""
    for number in range(system.backbone.layers):
        for name in ("q_proj", "v_proj"):
            layer = LAYER.format(number, name)
            yield f"{LLAMA}{layer}base_layer.", f"backbone.lm.{layer}"
            yield f"{LLAMA}{layer}lora_", f"inputs.audio.fusion.adapters.{layer}lora_"
    yield LLAMA, "backbone.lm."
