"""A convolution that folds cells, then the gated MLP of `Glu` (CogVLM2, arXiv:2408.16500 section 2; GLM-4V)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.connectors.glu import Glu
from omniform.geometry import Grid, SpecError


@dataclass(frozen=True, kw_only=True)
class ConvGlu(Glu):
    """`fold` x `fold` neighbouring cells become one, by a convolution of that stride; then `Glu`.

    Niky-san/cogvlm2_surce@7982d39 visual.py: class EVA2CLIPModel.

    Attributes:
        widened: whether the convolution gives the backbone's width, not the encoder's (GLM-4V).
        divisor: what comes out is divided by it (GLM-4V: 8).
    """

    implementation = "omniform.connectors.conv_glu_module:ConvGluModule"

    fold: int = 2
    widened: bool = False
    divisor: float = 1.0

    @property
    def title(self) -> str:
        return "Conv + SwiGLU"

    def cells(self, grid: Grid) -> Grid:
        if len(grid) != 2 or grid[0] % self.fold or grid[1] % self.fold:
            raise SpecError(
                f"ConvGlu folds {self.fold} x {self.fold} cells of a map, but the encoder gives {grid}; use an image "
                "size whose rows and columns of patches divide"
            )
        return grid[0] // self.fold, grid[1] // self.fold

    def between(self, in_dim: int, out_dim: int) -> int:
        """Width that the convolution gives."""
        return out_dim if self.widened else in_dim

    def num_params(self, in_dim: int, out_dim: int) -> int:
        width = self.between(in_dim, out_dim)
        return (self.fold**2 * in_dim + 1) * width + super().num_params(width, out_dim)
