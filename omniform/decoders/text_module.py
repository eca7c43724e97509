"""Module of `decoders.text`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Batch, Loss
from omniform.decoders.text import Text


class TextModule(nn.Module):
    """Logits are computed at learned positions only."""

    def __init__(self, spec: Text, dim: int) -> None:
        super().__init__()

    def loss(self, backbone: Any, hidden: Float[Tensor, "n dim"], batch: Batch) -> Loss:
        """Weighted cross-entropy summed over the learned tokens, and the sum of the weights."""
        rows, place = torch.unique(batch.predict_at, return_inverse=True)
        log_probs = F.log_softmax(backbone.logits(hidden[rows]).float(), dim=-1)
        picked = log_probs[place, batch.targets]
        return Loss(-(picked * batch.weights).sum(), batch.weights.sum())
