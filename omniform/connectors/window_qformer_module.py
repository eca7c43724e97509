"""Module of `connectors.window_qformer`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.window_qformer import WindowQFormer


class WindowQFormerModule(nn.Module):
    """Shapes: (views, cells, dim) of each encoder -> (views, windows * queries, out_dim)."""

    def __init__(self, spec: WindowQFormer, in_dim: int, out_dim: int, others: tuple[int, ...]) -> None:
        super().__init__()
        widths = (in_dim, *others)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.former = spec.inner.build(in_dim=sum(widths), out_dim=out_dim)
        self.spec = spec

    def forward(self, *features: Features) -> Features:
        grid = self.spec.cells(*(f.grid for f in features))
        windows = self.windows([norm(f.values) for norm, f in zip(self.norms, features, strict=True)])
        read = self.former.proj(self.former.read(windows.flatten(0, 1)))
        return Features(read.unflatten(0, (len(windows), -1)).flatten(1, 2), grid)

    def windows(self, normed: list[Float[Tensor, "views _cells _dim"]]) -> Float[Tensor, "views windows kernel total"]:
        """Features joined on channels, and cut."""
        longest = max(x.shape[1] for x in normed)
        joined = torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in normed], dim=2)
        return joined.unfold(1, self.spec.kernel, self.spec.stride).transpose(2, 3)
