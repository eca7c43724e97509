"""SLAM-ASR: the whole model with Whisper on two sounds of a batch that is padded on the left."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from omniform import index
from omniform.batch import Tree
from omniform.systems._whisper_release import whisper_rules

from ..golden import Golden
from ._llava import IGNORED, padded
from ._load import build


def run(golden: Golden) -> dict[str, Any]:
    model, given = model_of(golden), golden.inputs
    stream = model.stream("audio")
    heard = stream.encoder(given["audio_mel"].transpose(1, 2))
    rows = stream.connector(heard).values
    embeds = model.backbone.embed(given["input_ids"].clamp(min=0))
    for number, places in enumerate(given["modality_mask"]):
        at = places.nonzero()[:, 0]
        embeds[number, at] = 0
        kept = min(len(at), rows.shape[1])
        embeds[number, at[:kept]] = rows[number, :kept]
    mask = given["attention_mask"].bool()
    lengths = mask.sum(1).tolist()
    places = mask.long().cumsum(1)[mask] - 1  # rotation knows distances only
    logits = padded(model.backbone.logits(model.backbone(embeds[mask], places, Tree.of(lengths))), mask)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), given["labels"][:, 1:].flatten(), ignore_index=IGNORED)
    return {
        "encoder": heard.values, "projected": rows, "inputs_embeds": embeds, "logits": logits, "loss": loss[None],
    }  # fmt: skip


def model_of(golden: Golden) -> Any:
    """The golden's weights; Whisper has the names of its first release."""
    config: dict[str, Any] = golden.config
    system = index.release(golden.slug, config)
    hidden = int(str(config["projector_hidden"]).split()[0])
    rules = (
        *whisper_rules("encoder.", "inputs.audio.encoder.", config["whisper"]["n_layer"]), *system.layout.rules,
        ("llm.", "backbone.lm."),
    )  # fmt: skip
    return build(
        system.but({"inputs.audio.connector.hidden": hidden, "layout.rules": rules, "layout.separate": {}}),
        golden.params,
    )
