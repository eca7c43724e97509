"""Module of `fusion.splice`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from omniform.batch import Placed, State
from omniform.fusion.attached_module import Attached
from omniform.fusion.splice import Splice


class SpliceModule(Attached):
    """Puts media rows at their positions; nothing is added to the backbone."""

    def __init__(self, spec: Splice, backbone: nn.Module, width: int) -> None:
        super().__init__()

    def forward(self, embeds: Float[Tensor, "n dim"], media: Placed) -> tuple[Float[Tensor, "n dim"], State | None]:
        return spliced(embeds, media), None


def spliced(embeds: Float[Tensor, "n dim"], media: Placed) -> Float[Tensor, "n dim"]:
    """Embeddings with all rows at their positions.

    Raises:
        ValueError: there are more or fewer rows than positions.
    """
    rows, at = media.rows, media.at
    if len(rows) != len(at):
        raise ValueError(
            f"placeholder positions: {len(at)}, feature rows: {len(rows)}; the plan and the connector disagree"
        )
    return embeds.index_copy(0, at, rows.to(embeds.dtype)) if len(at) else embeds
