"""Module of `fusion.splice`."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.fusion.splice import Splice


class SpliceModule(nn.Module):
    """Puts media rows at their positions; nothing is added to the backbone."""

    def __init__(self, spec: Splice, backbone: nn.Module) -> None:
        super().__init__()

    def forward(
        self, embeds: Float[Tensor, "n dim"], rows: Float[Tensor, "rows dim"], at: Int[Tensor, " places"]
    ) -> Float[Tensor, "n dim"]:
        if len(rows) != len(at):
            raise ValueError(
                f"placeholder positions: {len(at)}, feature rows: {len(rows)}; the plan and the connector disagree"
            )
        return embeds.index_copy(0, at, rows.to(embeds.dtype))
