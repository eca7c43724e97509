"""Module of `decoders.ctc_units`; parameter names outside the layers are those of the public checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.batch import Batch, Loss, Tree
from omniform.decoders.ctc_units import CtcUnits


class CtcUnitsModule(nn.Module):
    """Hidden states (tokens, dim) -> a unit or a blank for each of their copies."""

    def __init__(self, spec: CtcUnits, dim: int) -> None:
        super().__init__()
        self.spec = spec
        width = spec.trunk.dim
        self.input_proj = nn.Linear(dim, width)
        self.trunk: Any = spec.trunk.but(vocab=1).build()
        self.trunk.lm.set_input_embeddings(nn.Identity())
        self.trunk.lm.set_output_embeddings(nn.Identity())
        self.trunk.lm.base_model.norm = nn.Identity()
        self.output_proj = nn.Linear(width, spec.blank + 1)

    def target(self, codes: Int[Tensor, " units"]) -> Int[Tensor, " units"]:
        """What is learned for one medium: its units."""
        return codes

    def embed(self, backbone: Any, codes: Int[Tensor, " units"]) -> Float[Tensor, "none dim"]:
        """Speech does not re-enter the sequence."""
        return backbone.embed(codes[:0])

    def copied(self, hidden: Float[Tensor, "tokens dim"], least: int = 0) -> Float[Tensor, "copies dim"]:
        """Each state `spec.copies` times, or evenly as often as makes `least` of all."""
        count = max(len(hidden) * self.spec.copies, least)
        # the place is found in float32, as in training there
        ratio = torch.tensor(count) / torch.tensor(len(hidden))
        return hidden[(torch.arange(count) / ratio).long().to(hidden.device)]

    def forward(
        self, hidden: Sequence[Float[Tensor, "_tokens dim"]], least: Sequence[int]
    ) -> list[Float[Tensor, "_copies symbols"]]:
        """Logits of each answer's copies, at least so many; answers do not see each other."""
        copied = [self.copied(h, n) for h, n in zip(hidden, least, strict=True)]
        lengths = [len(c) for c in copied]
        places = torch.cat([torch.arange(n) for n in lengths]).to(copied[0].device)
        x = self.trunk(self.input_proj(torch.cat(copied)), places, Tree.of(lengths))
        return list(self.output_proj(x).split(lengths))

    def loss(self, backbone: Any, hidden: Float[Tensor, "n dim"], batch: Batch) -> Loss:
        """CTC summed over all answers that are spoken, and the number of their units."""
        told = [medium for media in batch.told.values() for medium in media]
        if not told:
            return Loss(sum((p.sum() * 0 for p in self.parameters()), hidden.new_zeros(())), hidden.new_zeros(()))
        units = [self.target(medium.codes) for medium in told]
        lengths = torch.tensor([len(u) for u in units])
        logits = self([hidden[medium.at] for medium in told], lengths.tolist())
        log_probs = nn.utils.rnn.pad_sequence([F.log_softmax(x.float(), dim=-1) for x in logits])
        total = F.ctc_loss(
            log_probs, torch.cat(units), torch.tensor([len(x) for x in logits]), lengths,
            blank=self.spec.blank, reduction="sum", zero_infinity=True,
        )  # fmt: skip
        return Loss(total, hidden.new_tensor(float(lengths.sum())))

    def symbols(self, hidden: Float[Tensor, "tokens dim"], cache: Any = None, start: int = 0) -> Int[Tensor, " copies"]:
        """Likeliest symbol of each copy of further states of one answer.

        Args:
            cache: of the states before, which grows; None where there are none, and none will come.
            start: states before.
        """
        copied = self.input_proj(hidden.repeat_interleave(self.spec.copies, dim=0))
        places = start * self.spec.copies + torch.arange(len(copied), device=copied.device)
        if cache is None:
            x = self.trunk(copied, places, Tree.of([len(copied)]))
        else:
            x = self.trunk.step(copied[None], places[None], None, cache)[0]
        return self.output_proj(x).argmax(-1)

    def units(self, symbols: Sequence[int], before: int | None = None) -> list[int]:
        """Units of symbols that follow the symbol `before`: runs merged, then blanks dropped."""
        pairs = zip((before, *symbols), symbols, strict=False)
        return [symbol for last, symbol in pairs if symbol not in (last, self.spec.blank)]

    def render(self, codec: Any, codes: Sequence[int]) -> Any:
        """The bytes of a sound file that speaks these units."""
        device = next(codec.parameters()).device
        return codec.render(torch.tensor(codes, dtype=torch.long, device=device))
