"""What the adapters of CogVLM and its successors share: a whole model whose rows each begin with one picture."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omniform.batch import Fused, Placed, Tree
from omniform.geometry import MediaSize

from ..golden import Golden


@dataclass(frozen=True)
class Traced:
    """What lies between, a row of the batch each."""

    encoded: Tensor
    connected: Tensor
    rows: Tensor
    logits: Tensor


def trace(model: Any, golden: Golden, positions: Tensor, ids: Tensor | None = None, start: int | Tensor = 1) -> Traced:
    """The golden's normalised pictures and ids through the model's pieces, all rows packed together.

    Args:
        positions: (rows, n) position ids.
        ids: (rows, n), those at the pictures' rows ignored; None are the golden's own.
        start: of each row, where its picture begins.
    """
    stream = model.stream("image")
    pictures = golden.inputs["image" if "image" in golden.inputs else "images"]
    ids = golden.inputs["input_ids"] if ids is None else ids
    count, length = ids.shape
    plan = model.system.plan("image", MediaSize(width=60, height=80))
    encoded = stream.encoder(pictures)
    rows = torch.stack([stream.rows([(one,)], (plan,)) for one in (stream.encoder(p[None]) for p in pictures)])
    first = torch.arange(count) * length + torch.as_tensor(start)
    at = (first[:, None] + torch.arange(plan.positions)).flatten()
    tree = Tree.of([length] * count)
    media = Placed(rows.flatten(0, 1), (plan.positions,) * count, at, first, tree)
    embeds, state = stream.fusion(model.backbone.embed(ids.flatten()), media)
    fused = Fused({stream.fusion: state}) if state else None
    hidden = model.backbone(embeds, positions.flatten(), tree, None, fused)
    logits = model.backbone.logits(hidden).unflatten(0, (count, length))
    return Traced(encoded.values, stream.connector(encoded).values, rows, logits)


def with_class(model: Any, golden: Golden) -> Tensor:
    """Features of the encoder's last layer, class token first."""
    encoder = model.stream("image").encoder
    x = encoder.patch_embedding(golden.inputs["images"])
    for layer in encoder.transformer["layers"]:
        x = layer(x)
    return x


def runs(pattern: str, kind: str) -> list[tuple[int, int]]:
    """Where a letter stands several times in a row: (start, stop)."""
    return [match.span() for match in re.finditer(f"{kind}+", pattern)]
