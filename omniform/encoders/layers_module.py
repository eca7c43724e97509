"""Layers that several encoders' modules are made of; parameter names are those of the released checkpoints."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.activations import ACT2FN


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        activation: by its name in transformers.
    """

    def __init__(self, width: int, mlp_dim: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_dim)
        self.activation = ACT2FN[activation]
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))
