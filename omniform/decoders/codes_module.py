"""Module of `decoders.codes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.batch import Batch, Loss
from omniform.decoders.codes import Codes
from omniform.grammar import SpanIds


class CodesModule(nn.Module):
    """No weights of its own: codes are embedded and predicted by the backbone."""

    def __init__(self, spec: Codes, dim: int) -> None:
        super().__init__()

    def target(self, codes: Int[Tensor, " codes"], span: SpanIds) -> Int[Tensor, " tokens"]:
        """What the backbone learns for one medium: begin, its codes' ids, end."""
        return torch.tensor([span.begin, *span.ids_of(codes.tolist()), span.end], device=codes.device)

    def embed(self, backbone: Any, tokens: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens dim"]:
        """How tokens re-enter the sequence."""
        return backbone.embed(tokens)

    def loss(self, backbone: Any, hidden: Float[Tensor, "n dim"], batch: Batch) -> Loss:
        """Weighted cross-entropy summed over the learned tokens, and the sum of the weights."""
        rows, place = torch.unique(batch.predict_at, return_inverse=True)
        log_probs = F.log_softmax(backbone.logits(hidden[rows]).float(), dim=-1)
        return Loss(-(log_probs[place, batch.targets] * batch.weights).sum(), batch.weights.sum())

    def render(self, codec: Any, codes: Sequence[int]) -> Any:
        """The medium of codes: a picture, or the bytes of a sound file."""
        device = next(codec.parameters()).device
        return codec.render(torch.tensor(codes, dtype=torch.long, device=device))
