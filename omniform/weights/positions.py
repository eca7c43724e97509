"""A table of learned positions for a tower that shall see another resolution."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def stretched(table: Float[Tensor, "old dim"], positions: int) -> Float[Tensor, "new dim"]:
    """The table for another number of positions, as VILA stretches it: along the flat index, not along two axes.

    Each new row mixes the two old rows around its place; a place that is exactly an old row has no neighbours at a
    distance, both weights are 0, and so is the new row (the first and the last among others). That is what the
    original gives (NVlabs/VILA@b760c34 llava/model/multimodal_encoder/vision_encoder.py:48-115) and what its towers
    were trained from.
    """
    old = len(table)
    places = torch.arange(positions, device=table.device) / (positions - 1) * (old - 1)
    below, above = (p.long().clamp(0, old - 1) for p in (places.floor(), places.ceil()))
    return (places - below)[:, None] * table[above] + (above - places)[:, None] * table[below]
