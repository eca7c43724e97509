"""Module of `decoders.retrieved`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.batch import Batch, Features, Loss, SignalBatch
from omniform.decoders.regressed_module import RegressedModule
from omniform.decoders.retrieved import Retrieved

FOUND = 1
"""Class of the classifier that says: find it (the other: make it)."""


class Choice(nn.Module):
    """Whether a medium is made or found. It is not learned with the rest: its numbers are no parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(2, dim))
        self.register_buffer("bias", torch.zeros(2))

    def forward(self, hidden: Float[Tensor, "media dim"]) -> Float[Tensor, "media 2"]:
        weight, bias = self.state_dict(keep_vars=True).values()
        return F.linear(hidden, weight, bias)


@dataclass(frozen=True)
class Known:
    """Media that can be found.

    Attributes:
        sources: paths or URLs.
        embeddings: of each, of length 1, times the scale.
    """

    sources: tuple[str, ...]
    embeddings: Float[Tensor, "media shared"]


class RetrievedModule(RegressedModule):
    """The head, and two projections into one space."""

    def __init__(self, spec: Retrieved, dim: int, seen: int) -> None:
        super().__init__(spec, dim)
        self.contrast = spec.contrast
        self.words = nn.Linear(dim, spec.shared)
        self.media = nn.Linear(seen, spec.shared)
        self.scale = nn.Parameter(torch.tensor(log(1 / 0.07)))
        self.choice = Choice(dim)
        self.known: Known | None = None
        self._encoder: tuple[Any, ...] = ()  # in a tuple it is no submodule

    def look(self, encoder: nn.Module) -> None:
        """The input's encoder that sees the media."""
        self._encoder = (encoder,)

    # -- verbs --

    def loss(self, backbone: Any, hidden: Float[Tensor, "n dim"], batch: Batch) -> Loss:
        made = super().loss(backbone, hidden, batch)
        signals = next(iter(batch.signals.values()), None)
        if signals is None:
            return Loss(made.total + 0 * sum(p.sum() for p in self.parameters()), made.weight)
        told = self.contrast_losses(self.said(hidden[self.taken(signals)]), self.seen(signals))
        return Loss(made.total + self.contrast * told.sum(), made.weight)

    def make(
        self, backbone: Any, hidden: Float[Tensor, "1 tokens dim"], ids: Int[Tensor, "1 tokens"],
        random: torch.Generator, guidance: float, steps: int,
    ) -> Any:  # fmt: skip
        if self.known is not None and int(self.choice(hidden[:, 0]).argmax()) == FOUND:
            scores = self.scores(self.said(hidden))[0]
            return self.known.sources[int(scores.argmax())]
        return super().make(backbone, hidden, ids, random, guidance, steps)

    # -- finding --

    def said(self, hidden: Float[Tensor, "media tokens dim"]) -> Float[Tensor, "media shared"]:
        """What signals say, of length 1: of their first tokens (gill/layers.py:41-52)."""
        return F.normalize(self.words(hidden[:, 0]), dim=-1)

    def embedded(self, features: Features) -> Float[Tensor, "media shared"]:
        """Media as the encoder sees them, of length 1, times the scale."""
        return self.scale.exp() * F.normalize(self.media(features.values.mean(1)), dim=-1)

    def seen(self, signals: SignalBatch) -> Float[Tensor, "media shared"]:
        """The media of signals."""
        (encoder,) = self._encoder
        return self.embedded(encoder(encoder.normalise(torch.cat(signals.views))))

    @staticmethod
    def contrast_losses(
        said: Float[Tensor, "media shared"], seen: Float[Tensor, "media shared"]
    ) -> Float[Tensor, " media"]:
        """For each medium the mean of telling it by what is said, and what is said by it (gill/losses.py:32-33)."""
        logits, own = (seen @ said.T).float(), torch.arange(len(said), device=said.device)
        both = (F.cross_entropy(way, own, reduction="none") for way in (logits, logits.T))
        return sum(both, logits.new_zeros(())) / 2

    def remember(self, sources: Sequence[str], embeddings: Float[Tensor, "media shared"]) -> None:
        """Known media, by their embeddings before they are made one long."""
        self.known = Known(tuple(sources), self.scale.detach().exp() * F.normalize(embeddings, dim=-1))

    def scores(self, said: Float[Tensor, "signals shared"]) -> Float[Tensor, "signals media"]:
        """How well each known medium fits.

        Raises:
            ValueError: no media are known.
        """
        if self.known is None:
            raise ValueError("no media are known: give them (`remember`), with their embeddings")
        return said @ self.known.embeddings.T
