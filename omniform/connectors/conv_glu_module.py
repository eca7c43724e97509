"""Module of `connectors.conv_glu`, with the names of the release."""

from __future__ import annotations

from torch import nn

from omniform.batch import Features
from omniform.connectors.conv_glu import ConvGlu
from omniform.connectors.glu_module import GluModule


class ConvGluModule(GluModule):
    """Shapes: (views, rows * columns, in_dim) -> (views, rows / fold * columns / fold, out_dim)."""

    def __init__(self, spec: ConvGlu, in_dim: int, out_dim: int) -> None:
        width = spec.between(in_dim, out_dim)
        super().__init__(spec, width, out_dim)
        self.conv = nn.Conv2d(in_dim, width, spec.fold, stride=spec.fold)
        self.spec = spec

    def forward(self, features: Features) -> Features:
        folded = self.folded(features)
        return Features(super().forward(folded).values / self.spec.divisor, folded.grid)

    def folded(self, features: Features) -> Features:
        """Neighbouring cells as one."""
        image = features.values.transpose(1, 2).unflatten(2, features.grid)
        return Features(self.conv(image).flatten(2).transpose(1, 2), self.spec.cells(features.grid))
