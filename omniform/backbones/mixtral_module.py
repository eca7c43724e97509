"""Module of `backbones.mixtral`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.backbones.decoder_module import DecoderModule
from omniform.backbones.mixtral import LOSS, Mixtral
from omniform.batch import Loss, Notes, Tree


class MixtralModule(DecoderModule):
    """Mixtral, whose routers note how they use the experts where its loss is wanted."""

    spec: Mixtral

    def __init__(self, spec: Mixtral) -> None:
        super().__init__(spec)
        for layer in self.layers if spec.balance else ():
            Watch(spec.chosen, self.attention_of(layer), layer.get_submodule("mlp.gate"))

    def losses(self, notes: Notes) -> dict[str, Loss]:
        if not self.spec.losses:
            return {}
        used, likely = torch.stack(notes[LOSS]).mean(0)
        return {LOSS: Loss.of_documents(self.spec.experts * (used * likely).sum(1))}


class Watch:
    """Hooks on a layer's attention, whose call says which tree and notes are meant, and on its router behind that."""

    def __init__(self, chosen: int, attention: nn.Module, router: nn.Module) -> None:
        self.chosen = chosen
        self.tree: Tree | None = None
        self.notes: Notes | None = None
        attention.register_forward_pre_hook(self.open, with_kwargs=True)
        router.register_forward_hook(self.note)

    def open(self, _: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.tree, self.notes = options.get("tree"), options.get("notes")

    def note(self, router: Any, arguments: tuple[Tensor, ...], _: Any) -> None:
        """Share of the choices, and mean probability, of each expert in each document: (2, documents, experts)."""
        tree, notes = self.tree, self.notes
        self.tree = self.notes = None
        if tree is None or notes is None:
            return
        logits = F.linear(arguments[0].flatten(0, -2), router.weight).float()
        probs = logits.softmax(-1)
        used = F.one_hot(logits.topk(self.chosen).indices, logits.shape[1]).sum(1).to(probs)
        both = torch.stack([tree.document_means(used), tree.document_means(probs)])
        notes.setdefault(LOSS, []).append(both)
