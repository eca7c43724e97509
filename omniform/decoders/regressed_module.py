"""Module of `decoders.regressed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.batch import Batch, Features, Loss, SignalBatch
from omniform.decoders.regressed import NOISE, Regressed


class RegressedModule(nn.Module):
    """The head. The diffusion model that it is for is a part of its own, and attached."""

    def __init__(self, spec: Regressed, dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.dim = dim
        self.head: Any = spec.head.build(in_dim=dim, out_dim=spec.diffusion.width)
        self._attached: tuple[Any, ...] = ()  # in a tuple it is no submodule

    def attach(self, diffusion: nn.Module) -> None:
        """The diffusion model that gives targets and makes media."""
        self._attached = (diffusion,)

    @property
    def diffusion(self) -> Any:
        """The diffusion model.

        Raises:
            ValueError: it is not built.
        """
        if not self._attached:
            raise ValueError(f"{self.spec.title} is not built: set rendered=True on the output that it makes media of")
        return self._attached[0]

    # -- verbs --

    @torch.no_grad()
    def target(self, signals: SignalBatch) -> Float[Tensor, "media positions width"]:
        """The condition that the diffusion model's own text encoder gives of the captions."""
        return self.diffusion.condition(signals.captions)[:, : self.spec.given]

    def loss(self, backbone: Any, hidden: Float[Tensor, "n dim"], batch: Batch) -> Loss:
        """The weighted losses of each medium, summed, and the number of media.

        Without media the head runs on nothing, so that everything that learns has a gradient, diffusion included.
        """
        signals = next(iter(batch.signals.values()), None)
        if signals is None:
            idle = self.head(Features(hidden.new_zeros(1, len(self.spec.tokens), self.dim), (len(self.spec.tokens),)))
            made = [p.sum() for model in self._attached for p in model.parameters() if p.requires_grad]
            return Loss(0 * sum(made, idle.values.sum() + hidden.sum()), hidden.new_zeros(()))
        condition = self.condition(backbone, hidden[self.taken(signals)], batch.ids[signals.at])
        values = [weight * self._loss(name, condition, signals) for name, weight in self.spec.losses.items()]
        return Loss.of_documents(torch.stack(values).sum(0))

    def embed(self, backbone: Any, tokens: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens dim"]:
        """How a medium re-enters the sequence: as its signal."""
        return backbone.embed(tokens)

    def render(
        self, condition: Float[Tensor, "1 positions width"], random: torch.Generator, guidance: float, steps: int
    ) -> Any:
        """The medium of one condition; guidance leads away from the condition of no words.

        Args:
            guidance: its scale; 0 is the published one.
            steps: denoising steps; 0 is the published number.
        """
        diffusion, given = self.spec.diffusion, self._filled(condition)
        nothing = self.diffusion.condition([""]).to(given.dtype)
        return self.diffusion.render(given, nothing, random, guidance or diffusion.guidance, steps or diffusion.steps)[
            0
        ]

    def make(
        self, backbone: Any, hidden: Float[Tensor, "1 tokens dim"], ids: Int[Tensor, "1 tokens"],
        random: torch.Generator, guidance: float, steps: int,
    ) -> Any:  # fmt: skip
        """The medium of a signal, of its hidden states and ids; the rest as in `render`."""
        return self.render(self.condition(backbone, hidden, ids), random, guidance, steps)

    # -- steps --

    def taken(self, signals: SignalBatch) -> Int[Tensor, "media tokens"]:
        """Flat positions of the hidden states that the head reads."""
        if self.spec.taken == "at":
            return signals.at
        return torch.cat([signals.before[:, None], signals.at[:, :-1]], dim=1)

    def chosen(self, trail: Float[Tensor, "more dim"]) -> Float[Tensor, "tokens dim"]:
        """What the head reads of the hidden states from the one that the signal's first token follows from on."""
        return trail[1:] if self.spec.taken == "at" else trail[:-1]

    def condition(
        self, backbone: Any, hidden: Float[Tensor, "media tokens dim"], ids: Int[Tensor, "media tokens"]
    ) -> Float[Tensor, "media positions width"]:
        """The condition of hidden states and the ids of the signals' tokens."""
        read = hidden + backbone.embed(ids) if self.spec.embedded else hidden
        return self.head(Features(read, (read.shape[1],))).values

    def _filled(self, condition: Float[Tensor, "media given width"]) -> Float[Tensor, "media positions width"]:
        """The condition with zeros behind it, as long as the diffusion model reads."""
        return F.pad(condition, (0, 0, 0, self.spec.diffusion.positions - condition.shape[1]))

    def _some_dropped(
        self, condition: Float[Tensor, "media positions width"]
    ) -> Float[Tensor, "media positions width"]:
        """The condition, of some media that of no words, where the diffusion model learns."""
        if not self.spec.dropped or not self.diffusion.training:
            return condition
        dropped = torch.rand(len(condition), 1, 1, device=condition.device) < self.spec.dropped
        return torch.where(dropped, self.diffusion.condition([""]).to(condition.dtype), condition)

    def _loss(
        self, name: str, condition: Float[Tensor, "media positions width"], signals: SignalBatch
    ) -> Float[Tensor, " media"]:
        if name == NOISE:
            return self.diffusion.noise_loss(self._some_dropped(self._filled(condition)), torch.cat(signals.views))
        return LOSSES[name](condition.float(), self.target(signals).float())


def distance(given: Tensor, wanted: Tensor) -> Float[Tensor, " media"]:
    """Euclidean distance of each pair of vectors, averaged over positions (gill/losses.py:20-29)."""
    return (given - wanted).square().sum(-1).sqrt().mean(-1)


def squares(given: Tensor, wanted: Tensor) -> Float[Tensor, " media"]:
    """Mean squared error."""
    return (given - wanted).square().mean((-1, -2))


def cosine(given: Tensor, wanted: Tensor) -> Float[Tensor, " media"]:
    """One minus the cosine of each pair of vectors, averaged over positions."""
    return 1 - F.cosine_similarity(given, wanted, dim=-1).mean(-1)


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"distance": distance, "squares": squares, "cosine": cosine}
