"""LLaMA-Adapter: language model, prompts and gates, as trained (tanh of the gates) and as served (the gates)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform import index
from omniform.batch import Fused, Placed, Tree
from omniform.weights.layout import rules_of

from ..golden import Golden
from ._load import load

IGNORED = 0


def run(golden: Golden) -> dict[str, Any]:
    served = "tokens_step" in golden.inputs
    pieces = Pieces(golden, squashed=not served)
    if served:
        before, more = golden.inputs["tokens_prefill"], golden.inputs["tokens_step"]
        whole = pieces.logits(torch.cat([before, more], 1))
        return {"last_logits_prefill": pieces.logits(before)[:, -1], "last_logits_step": whole[:, -1]}
    logits, labels = pieces.logits(golden.inputs["tokens"]), golden.inputs["labels"]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    return {"logits": logits, "loss": loss}


class Pieces(nn.Module):
    """What the file holds: no encoder and no projection."""

    def __init__(self, golden: Golden, squashed: bool) -> None:
        super().__init__()
        system = index.release(golden.slug, golden.config)
        spec = system.continuous("image").fusion.but(squashed=squashed)
        self.backbone = system.backbone.build()
        self.width = system.backbone.dim
        fusion = spec.build(backbone=self.backbone, width=self.width)
        self.inputs = nn.ModuleDict({"image": nn.ModuleDict({"fusion": fusion})})
        load(self, golden.params, rules_of(system))
        self.eval()

    def logits(self, ids: Tensor) -> Tensor:
        """(rows, length) ids -> (rows, length, vocab)."""
        rows, length = ids.shape
        none, tree = torch.empty(0, dtype=torch.long), Tree.of([length] * rows)
        fusion: Any = self.inputs["image"]["fusion"]
        media = Placed(torch.empty(0, self.width), (), none, none, tree)
        embeds, state = fusion(self.backbone.embed(ids.flatten()), media)
        hidden = self.backbone(embeds, tree.depth, tree, None, Fused({fusion: state}))
        return self.backbone.logits(hidden).unflatten(0, (rows, length))
