"""GILL: three passes over pairs of pictures and captions, and an answer in which a signal comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Tree

from ..golden import Golden
from ._llava import IGNORED, padded
from ._load import build

TABLE = "model.input_embeddings.weight"
PAD = 1


def run(golden: Golden) -> dict[str, Tensor]:
    system = index.release(golden.slug, golden.config)
    image = system.outputs["image"].but(rendered=False)
    layout = replace(system.layout, recast=())  # the golden holds the whole table
    params = {key: values for key, values in golden.params.items() if key != TABLE}
    held = replace(system, outputs={**system.outputs, "image": image}, layout=layout)
    model = build(held, with_choice(params, held), {"model.lm.": "backbone.lm.", CHOICE: "outputs.image.choice."})
    return {**captions(golden, model), **pairs(golden, model), **answer(golden, model)}


CHOICE = "decision model "


def with_choice(params: dict[str, Tensor], system: Any) -> dict[str, Tensor]:
    """The golden has no decision model; it is nothing."""
    dim = system.backbone.dim
    return {**params, CHOICE + "1.weight": torch.zeros(2, dim), CHOICE + "1.bias": torch.zeros(2)}


def _read(model: Any, embeds: Tensor, keep: Tensor) -> Tensor:
    """Hidden states of rows, padding left out, in one packed sequence."""
    tree = Tree.of(keep.sum(1).tolist())
    return padded(model.backbone(embeds[keep], tree.depth, tree), keep)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def captions(golden: Golden, model: Any) -> dict[str, Tensor]:
    """Rows of the picture, then everything; the original lets rows see their padding's end, which nothing else does."""
    ids, stream = golden.inputs["labels"], model.stream("image")
    rows = stream.connector(stream.encoder(golden.inputs["pixel_values"])).values
    embeds = torch.cat([rows, model.backbone.embed(ids)], dim=1)
    hidden = _read(model, embeds, torch.ones(embeds.shape[:2], dtype=torch.bool))
    signal = torch.tensor(golden.config["gen_token_idx"])
    quiet = (torch.isin(ids, signal) | (ids == PAD)).cumsum(1) > 0
    labels = torch.cat([ids.new_full(rows.shape[:2], IGNORED), ids.masked_fill(quiet, IGNORED)], dim=1)
    logits = model.backbone.logits(hidden)
    return {"cap_visual_embs": rows, "cap_labels": labels, "cap_logits": logits, "cap_loss": _loss(logits, labels)}


def pairs(golden: Golden, model: Any) -> dict[str, Tensor]:
    """Captions with their signals: what is found, and what is drawn."""
    ids, ends, stream = golden.inputs["labels"], golden.inputs["caption_len"], model.stream("image")
    decoder, signal = model.part("image.decoder"), torch.tensor(golden.config["gen_token_idx"])
    hidden = _read(model, model.backbone.embed(ids), torch.ones(ids.shape, dtype=torch.bool))
    logits = model.backbone.logits(hidden)
    later = (torch.isin(ids, signal[1:]) | (ids == PAD)).cumsum(1) > 0
    labels = ids.masked_fill(later, IGNORED)
    rows, at = torch.arange(len(ids))[:, None], ends[:, None] - len(signal) + torch.arange(len(signal))
    states = hidden[rows, at]
    return {
        "ret_labels": labels, "ret_logits": logits, "ret_loss_ce": _loss(logits, labels),
        "ret_last_output_logit": logits[rows[:, 0], ends - 2], "llm_hidden_img": states,
        "ret_text_emb": decoder.said(states),
        "ret_visual_emb_scaled": decoder.embedded(stream.encoder(golden.inputs["pixel_values"])),
        "gen_emb": decoder.condition(model.backbone, states, ids[rows, at]),
    }  # fmt: skip


def answer(golden: Golden, model: Any) -> dict[str, Tensor]:
    """Greedy: the signal's first token is made likely from the third step on, the others follow it at once."""
    signal, stream = golden.config["gen_token_idx"], model.stream("image")
    rows = stream.connector(stream.encoder(golden.inputs["pixel_values"][:1])).values[0]
    embeds, said = torch.cat([rows, model.backbone.embed(torch.tensor([2, 10, 11]))]), list[int]()
    for step in range(4):
        tree = Tree.of([len(embeds)])
        logits = model.backbone.logits(model.backbone(embeds, tree.depth, tree)[-1])
        logits[signal[1:]] = float("-inf")
        logits[signal[0]] = logits[signal[0]].abs() * 100.0 if step >= 2 else float("-inf")
        chosen = int(logits.argmax())
        new = list(signal) if chosen == signal[0] else [chosen]
        said += new
        embeds = torch.cat([embeds, model.backbone.embed(torch.tensor(new))])
    return {"generated_ids": torch.tensor([said])}
