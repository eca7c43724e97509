"""What cross-attention fusions share: each position sees one medium, the last before it in its document."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omniform.batch import Placed, State


@dataclass(frozen=True)
class Seen(State):
    """Rows of media, and for every position the number of the medium that it sees; -1 for none.

    Attributes:
        counts: rows of each medium.
    """

    rows: Float[Tensor, "rows width"]
    counts: tuple[int, ...]
    medium: Int[Tensor, "texts positions"]

    @staticmethod
    def of(media: Placed) -> Seen:
        """Along every document of a packed batch."""
        return Seen(media.rows, media.counts, media.tree.last_seen(media.anchors).to(media.rows.device)[None])

    def at(self, positions: Int[Tensor, "texts new"]) -> Seen:
        """For some positions; media that none of them sees are forgotten."""
        medium = self.medium[0, positions.to(self.medium.device)]
        kept = medium[medium >= 0].unique()
        parts = self.rows.split(self.counts)
        rows = torch.cat([self.rows[:0], *(parts[i] for i in kept.tolist())])
        place = torch.full((len(self.counts) + 1,), -1, device=kept.device)  # the last place is that of "none"
        place[kept] = torch.arange(len(kept), device=kept.device)
        return Seen(rows, tuple(self.counts[i] for i in kept.tolist()), place[medium])

    def gather(
        self, query: Float[Tensor, "texts positions inner"], both: Float[Tensor, "rows twice"], heads: int
    ) -> Float[Tensor, "texts positions inner"]:
        """Attention of each position to the medium it sees; zero where it sees none.

        Positions are sorted by medium, so that nothing is computed for media that a position does not see.

        Args:
            both: keys, then values of all rows, each as wide as the queries.
        """
        flat = query.flatten(0, 1)
        if not len(self.counts):
            return 0 * query + 0 * both.sum()
        queries = flat[self.slots.clamp(min=0)]
        padded = pad_sequence(list(both.split(self.counts)), batch_first=True)
        keys, values = padded.chunk(2, dim=-1)
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
        out = F.scaled_dot_product_attention(q, k, v, self.mask).transpose(1, 2).flatten(2)
        found = out[self.slots >= 0]
        return torch.zeros_like(flat).index_copy(0, self.slots[self.slots >= 0], found).view_as(query)

    @cached_property
    def slots(self) -> Int[Tensor, "media longest"]:
        """Flat positions that see each medium; -1 where there are fewer than of another."""
        flat = self.medium.flatten()
        groups = [(flat == number).nonzero()[:, 0] for number in range(len(self.counts))]
        return pad_sequence(groups, batch_first=True, padding_value=-1)

    @cached_property
    def mask(self) -> Tensor | None:
        """(media, 1, 1, most rows) bool: rows that a medium has; None where all have equally many."""
        counts = torch.tensor(self.counts, device=self.rows.device)
        if len(set(self.counts)) == 1:
            return None
        return (torch.arange(max(self.counts), device=counts.device) < counts[:, None])[:, None, None]
