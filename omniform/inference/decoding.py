"""Token after token on top of a packed prefill, for rows of mixed lengths that may share trunks.

Rows of one family (same trunk) are put into blocks. The cache holds a block's trunk once, then the rows' own
positions; a step reads one new position of each row, under a mask that shows each its own chain. So nothing is copied
per row, trunks are read once per block, and a single row is a block that needs neither mask nor copy.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from omniform.batch import Batch, Fused, Tree
from omniform.inference.cache import KeyValues

Columns: TypeAlias = npt.NDArray[np.int64]

MOST_SLOTS = 16
"""Rows of a block at most: their keys stand side by side, so each row's attention runs over all of them."""
SLACK = 1.25
"""Cells of a step at most, for each row: blocks hold as many rows as keep the empty cells below that."""
SPARE_STEPS = 4
"""Steps for which a new block has room before its buffers grow."""


@dataclass(frozen=True)
class Place:
    """Where the cache holds one row: columns of a block.

    Attributes:
        family: equal for rows that share their trunk.
        trunk: columns shared by the family; `own` are the row's. Together they are the chain, in order.
        next: the next position id.
        origin: the last flat position of its prompt, in the sequence that was packed.
    """

    block: int
    family: Hashable
    trunk: Columns
    own: Columns
    next: int
    origin: int

    @staticmethod
    def alone(length: int, next_position: int, origin: int) -> Place:
        """The only row of a cache."""
        return Place(0, "alone", np.arange(0), np.arange(length), next_position, origin)

    @staticmethod
    def of(tree: Tree, following: Sequence[int]) -> list[Place]:
        """Places of a tree's documents in a cache that was written in the tree's order.

        Args:
            following: position id of what follows each document.
        """
        nodes, ends, columns = tree.nodes, list[int](), list[Columns]()  # of each node's whole chain
        for start, stop, above in nodes:
            ends.append(stop - start + (ends[above] if above >= 0 else 0))
            columns.append(np.concatenate([*columns[above : above + 1], np.arange(start, stop)]))
        places = []
        for leaf, after in zip(tree.leaves, following, strict=True):
            family = leaf  # side by side, long rows cost more than a trunk that is copied
            while nodes[family].parent >= 0 and 2 * ends[nodes[family].parent] >= ends[leaf]:
                family = nodes[family].parent
            trunk = columns[family] if family != leaf else np.arange(0)
            places.append(Place(0, family, trunk, columns[leaf][len(trunk) :], after, nodes[leaf].stop - 1))
        return places


@dataclass
class Layout:
    """How rows are laid out in blocks: rows (block, slot) of a step, columns of the cache.

    Attributes:
        cells: for each block the cells (block, column) of the old cache that it takes over; 0 where it is shorter.
        seen: which of its columns a row sees.
        next, origin: of each row's place; 0 in empty slots.
        where: block and slot of each row.
        places: of each row in the new cache.
    """

    cells: Columns
    seen: npt.NDArray[np.bool_]
    next: Columns
    origin: Columns
    where: list[tuple[int, int]] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    @staticmethod
    def of(places: Sequence[Place], capacity: int) -> Layout:
        """Rows in blocks of one family, for a cache whose blocks have `capacity` columns."""
        blocks = blocks_of(places)
        slots = max(map(len, blocks))
        columns = max(len(rows[0].trunk) + sum(len(p.own) for p in rows) for rows in blocks)
        layout = Layout(
            np.zeros((len(blocks), columns), np.int64),
            np.zeros((len(blocks), slots, columns), np.bool_),
            np.zeros((len(blocks), slots), np.int64),
            np.zeros((len(blocks), slots), np.int64),
        )
        layout.seen[:, :, 0] = True  # empty slots see something, too, or they would write NaN
        for block, rows in enumerate(blocks):
            layout._fill(block, rows, capacity)
        return layout

    def _fill(self, block: int, rows: Sequence[Place], capacity: int) -> None:
        trunk = np.arange(len(rows[0].trunk))
        source = np.concatenate([rows[0].trunk, *(p.own for p in rows)])
        self.cells[block, : len(source)] = source + rows[0].block * capacity
        self.seen[block, : len(rows), 0] = len(trunk) > 0
        self.seen[block, : len(rows), : len(trunk)] = True
        start = len(trunk)
        for slot, row in enumerate(rows):
            own = np.arange(start, start + len(row.own))
            start += len(own)
            self.seen[block, slot, own] = True
            self.next[block, slot], self.origin[block, slot] = row.next, row.origin
            self.where.append((block, slot))
            self.places.append(replace(row, block=block, trunk=trunk, own=own))


@dataclass(frozen=True)
class Prefill:
    """Prompts that were read.

    Attributes:
        hidden: last hidden state of each row.
        places: of each row in the cache, those of a family next to each other.
        fused: what fusions knew of the sequence that held the places' origins.
    """

    hidden: Float[Tensor, "rows dim"]
    cache: KeyValues
    places: Sequence[Place]
    fused: Fused | None = None

    @staticmethod
    def of(hidden: Float[Tensor, "n dim"], cache: KeyValues, batch: Batch, fused: Fused | None = None) -> Prefill:
        """The documents of a batch."""
        return Prefill(hidden[batch.tree.lasts], cache, Place.of(batch.tree, batch.following), fused)

    @staticmethod
    def alone(
        hidden: Float[Tensor, "1 dim"], cache: KeyValues, length: int, batch: Batch, fused: Fused | None = None
    ) -> Prefill:
        """The only row of a cache, `length` positions long, of which a batch holds the last."""
        place = Place.alone(length, batch.following[-1], batch.tree.length - 1)
        return Prefill(hidden, cache, [place], fused)

    def go_on(self, backbone: Any, rows: Sequence[int]) -> Decoding:
        """Decoding of some of the rows."""
        return Decoding(backbone, self.cache, [self.places[row] for row in rows], self.fused)


class Decoding:
    """Rows that go on together, one token of each a step.

    Args:
        backbone: module with `embed` and `step`.
        cache: of the prefill.
        places: of the rows, those of a family next to each other.
        fused: of the prefill.
    """

    def __init__(self, backbone: Any, cache: KeyValues, places: Sequence[Place], fused: Fused | None = None) -> None:
        self.backbone = backbone
        self.sequence = fused
        self._arrange(cache, places)

    def _arrange(self, cache: KeyValues, places: Sequence[Place]) -> None:
        """Put rows into new blocks."""
        layout = Layout.of(places, cache.capacity)
        (blocks, slots), columns = layout.next.shape, layout.cells.shape[1]
        same = cache.like.shape[::2] == (1, columns) and blocks == 1
        if not same or not np.array_equal(layout.cells[0], np.arange(columns)):
            spare = np.zeros((blocks, SPARE_STEPS * slots), np.int64)
            cache = cache.fold(torch.from_numpy(np.concatenate([layout.cells, spare], 1)), columns)
        self.cache, self.layout, self.steps = cache, layout, 0
        self.rows = list(range(len(places)))
        self.positions, seen = (torch.from_numpy(x).to(cache.like.device) for x in (layout.next, layout.seen))
        origin = torch.from_numpy(layout.origin).to(cache.like.device)
        fused = self.sequence.after(origin) if self.sequence else None
        self.more = {"fused": fused} if fused else {}
        self._where([block * slots + slot for block, slot in layout.where])
        masked = slots > 1 or not layout.seen.all()
        self.mask = _additive(seen[:, None], cache.like) if masked else None
        own = torch.eye(slots, dtype=torch.bool, device=cache.like.device)
        self.new_columns = _additive(own, cache.like).expand(blocks, 1, slots, slots)

    def _where(self, at: list[int]) -> None:
        self.at = torch.tensor(at, device=self.positions.device)
        self.full = len(at) == self.positions.numel()

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """Hidden states after one more token of each row."""
        ids = tokens if self.full else tokens.new_zeros(self.positions.numel()).index_copy_(0, self.at, tokens)
        embeds = self.backbone.embed(ids.view(self.positions.shape))
        hidden = self.backbone.step(embeds, self.positions, self._next_mask(), self.cache, **self.more)
        hidden = hidden.flatten(0, 1)
        self.positions = self.positions + 1
        self.steps += 1
        return hidden if self.full else hidden[self.at]

    def _next_mask(self) -> Float[Tensor, "blocks 1 slots columns"] | None:
        """The mask with a column for the new position of each slot; None where every row sees everything."""
        if self.mask is None:
            return None
        self.mask = torch.cat([self.mask, self.new_columns], dim=-1)
        return self.mask

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows (counted among those that go on) go on; half-empty blocks are packed anew."""
        self.rows = [self.rows[i] for i in rows]
        if 2 * len(rows) <= self.positions.numel():
            self._arrange(self.cache, [self._place(row) for row in self.rows])
        else:
            self._where(self.at[list(rows)].tolist())

    def _place(self, row: int) -> Place:
        """Where a row is by now."""
        place, (_, slot), slots = self.layout.places[row], self.layout.where[row], self.positions.shape[1]
        new = self.layout.cells.shape[1] + slot + slots * np.arange(self.steps)
        own = np.concatenate([place.own, new])
        return replace(place, own=own, next=place.next + self.steps)


def blocks_of(places: Sequence[Place]) -> list[list[Place]]:
    """Rows that stand in one block of the cache and share a trunk, evenly in blocks of at most `slots_for` rows."""
    families = [list(members) for _, members in groupby(places, key=lambda p: (p.block, p.family))]
    slots = slots_for([len(members) for members in families])
    blocks = []
    for members in families:
        count = -(-len(members) // slots)
        bounds = [i * len(members) // count for i in range(count + 1)]
        blocks += [members[a:b] for a, b in pairwise(bounds)]
    return blocks


def slots_for(families: Sequence[int]) -> int:
    """Rows of a block: as many as possible while few slots stay empty in families of these sizes."""
    sizes, counts = np.unique(families, return_counts=True)
    most = SLACK * (sizes * counts).sum()
    fits = (s for s in range(min(MOST_SLOTS, sizes[-1]), 0, -1) if s * (-(-sizes // s) * counts).sum() <= most)
    return next(fits)


def _additive(seen: Bool[Tensor, "*shape"], like: Tensor) -> Float[Tensor, "*shape"]:
    """0 where seen, -inf elsewhere, in the type of `like`."""
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))
