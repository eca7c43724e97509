"""Token after token on top of states: every row remembers what it has read in tensors of fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from omniform.batch import Batch, Fused
from omniform.scan import States


class StateDecoding:
    """Rows that go on together, one token of each a step; there is no padding that a state could read.

    Args:
        backbone: module with `embed` and `step`.
        states: of the rows.
    """

    def __init__(self, backbone: Any, states: States) -> None:
        self.backbone = backbone
        self.states = states

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """Hidden states after one more token of each row."""
        positions = torch.tensor(self.states.lengths, device=tokens.device)[:, None]
        return self.backbone.step(self.backbone.embed(tokens[:, None]), positions, None, self.states)[:, 0]

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows (counted among those that go on) go on."""
        self.states = self.states.of(rows)


@dataclass(frozen=True)
class StatePrefill:
    """Prompts that were read.

    Attributes:
        hidden: last hidden state of each row.
        cache: what is remembered of each row.
    """

    hidden: Float[Tensor, "rows dim"]
    cache: States

    @staticmethod
    def of(hidden: Float[Tensor, "n dim"], cache: States, batch: Batch, _: Fused | None) -> StatePrefill:
        """The documents of a batch."""
        return StatePrefill(hidden[batch.tree.lasts], cache)

    @staticmethod
    def alone(hidden: Float[Tensor, "1 dim"], cache: States, *_: Any) -> StatePrefill:
        """The only row of a cache."""
        return StatePrefill(hidden, cache)

    def go_on(self, backbone: Any, rows: Sequence[int]) -> StateDecoding:
        """Decoding of some of the rows."""
        return StateDecoding(backbone, self.cache.of(rows))
