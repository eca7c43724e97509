"""A selective scan over a packed tree, in plain PyTorch (Mamba, arXiv:2312.00752 section 3.3).

Every node of a tree is cut into chunks that continue one another as the nodes do. All chunks step forward together:
once from zero, to learn what each adds to a state; then, where a chunk continues another, from the state that it is
given. So a sequence of n positions takes about 3 sqrt(n) steps, documents cannot mix, and a branch starts from the
state that its trunk ended with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from omniform.batch import Tree

SHORTEST = 8
"""Positions of a chunk at least."""
VALUES = 1 << 26
"""Values of decays and of states, over all steps, that are held at once: wider scans run in groups of channels."""


class LayerState(NamedTuple):
    """What one layer remembers of every row.

    Attributes:
        inputs: the last inputs of its convolution, oldest first.
        state: of its scan, in float32.
    """

    inputs: Float[Tensor, "rows convolved channels"]
    state: Float[Tensor, "rows channels state"]


@dataclass
class States:
    """What a recurrent backbone remembers of every row: after reading a tree, of its leaves in order.

    Attributes:
        lengths: positions that each row has read.
    """

    layers: Sequence[LayerState] = ()
    lengths: list[int] = field(default_factory=list)

    def take(self, layers: Sequence[LayerState], lengths: list[int]) -> None:
        """Replace all states at once, so that a step that is interrupted leaves those before it."""
        self.layers, self.lengths = layers, lengths

    def of(self, rows: Sequence[int]) -> States:
        """The states of some rows; the same object where they are all of them in order."""
        if list(rows) == list(range(len(self.lengths))):
            return self
        at = torch.tensor(rows, device=self.layers[0].state.device)
        layers = [LayerState(layer.inputs[at], layer.state[at]) for layer in self.layers]
        return States(layers, [self.lengths[row] for row in rows])

    @property
    def columns(self) -> int:
        """Positions that the only row has read."""
        (length,) = self.lengths
        return length

    def keep(self, columns: int) -> bool:
        """Whether just the first `columns` positions are remembered; a state cannot forget the last ones."""
        return self.columns == columns


class Chunk(NamedTuple):
    """Positions [start, stop) that continue the chunk `parent` (-1: the start of a document) at distance `level`."""

    start: int
    stop: int
    parent: int
    level: int


@dataclass(frozen=True)
class Chunks:
    """Index arithmetic of one tree's scan.

    Attributes:
        rows: flat positions of each chunk, in order of levels; the tree's length where a chunk is shorter.
        counts: chunks of each level.
        parents: for each level after the first, the chunk of the level before that each continues.
        at: for each flat position its place in `rows`, flattened.
        ends: for each leaf of the tree the chunk that it ends with.
    """

    rows: Int[Tensor, "chunks steps"]
    counts: tuple[int, ...]
    parents: tuple[Int[Tensor, " _chunks"], ...]
    at: Int[Tensor, " n"]
    ends: Int[Tensor, " leaves"]

    @staticmethod
    def of(tree: Tree, device: torch.device) -> Chunks:
        """The chunks of a tree, made once for all layers."""
        key = ("chunks", device)
        if key not in tree.memo:
            tree.memo[key] = _chunks(tree, device)
        return tree.memo[key]


def _chunks(tree: Tree, device: torch.device) -> Chunks:
    longest = int(tree.depth.max()) + 1 if tree.length else 1
    steps = max(SHORTEST, isqrt(longest))
    found, last = _cut(tree, steps)
    order = sorted(range(len(found)), key=lambda i: found[i].level)
    rank = {chunk: i for i, chunk in enumerate(order)}
    counts = [sum(chunk.level == level for chunk in found) for level in range(found[order[-1]].level + 1)]
    firsts = torch.tensor([0, *counts]).cumsum(0).tolist()
    rows = torch.full((len(found), steps), tree.length)
    parents: list[list[int]] = [[] for _ in counts]
    for row, number in enumerate(order):
        start, stop, parent, level = found[number]
        rows[row, : stop - start] = torch.arange(start, stop)
        if level:
            parents[level].append(rank[parent] - firsts[level - 1])
    at = torch.empty(tree.length + 1, dtype=torch.long)
    at[rows.flatten()] = torch.arange(rows.numel())
    return Chunks(
        rows=rows.to(device),
        counts=tuple(counts),
        parents=tuple(torch.tensor(p, device=device) for p in parents[1:]),
        at=at[:-1].to(device),
        ends=torch.tensor([rank[last[leaf]] for leaf in tree.leaves], device=device),
    )


def _cut(tree: Tree, steps: int) -> tuple[list[Chunk], list[int]]:
    """Chunks in the tree's order, and the last chunk of each node's chain."""
    found: list[Chunk] = []
    last: list[int] = []
    for start, stop, above in tree.nodes:
        chunk = last[above] if above >= 0 else -1
        for first in range(start, stop, steps):
            level = found[chunk].level + 1 if chunk >= 0 else 0
            found.append(Chunk(first, min(first + steps, stop), chunk, level))
            chunk = len(found) - 1
        last.append(chunk)
    return found, last


def before(tree: Tree, count: int, device: torch.device) -> Int[Tensor, "{count} n"]:
    """Row k: the flat position k steps back along each position's chain; the tree's length where there is none."""
    key = ("before", count, device)
    if key not in tree.memo:
        rows = [torch.arange(tree.length + 1)]
        previous = _previous(tree)
        for _ in range(count - 1):
            rows.append(previous[rows[-1]])
        tree.memo[key] = torch.stack(rows)[:, :-1].to(device)
    return tree.memo[key]


def before_from(tree: Tree, count: int, device: torch.device) -> Int[Tensor, "{count} n"]:
    """As `before` for documents that go on: what stands before them is behind the tree's length, `count` - 1 rows each.

    Those of the first document come first, each oldest first.
    """
    key = ("before from", count, device)
    if key not in tree.memo:
        back = torch.arange(count)[:, None] - tree.depth
        kept = tree.length + (tree.node_of + 1) * (count - 1) - back
        tree.memo[key] = torch.where(back > 0, kept, before(tree, count, torch.device("cpu"))).to(device)
    return tree.memo[key]


def _previous(tree: Tree) -> Int[Tensor, " n_and_none"]:
    """The position before each along its chain; the last entry stands for none."""
    previous = torch.arange(-1, tree.length)
    previous[-1] = tree.length
    ends: list[int] = []
    for start, stop, above in tree.nodes:
        end = ends[above] if above >= 0 else tree.length
        if stop > start:
            previous[start], end = end, stop - 1
        ends.append(end)
    return previous


def selective_scan(
    tree: Tree,
    steps: Float[Tensor, "n channels"],
    decay: Float[Tensor, "channels state"],
    enter: Float[Tensor, "n state"],
    leave: Float[Tensor, "n state"],
    x: Float[Tensor, "n channels"],
    start: Float[Tensor, "roots channels state"] | None = None,
) -> tuple[Float[Tensor, "n channels"], Float[Tensor, "leaves channels state"]]:
    """h = exp(step * decay) h + step * x * enter along every chain; y = h . leave.

    States are not kept for the backward pass, which runs the scan again.

    Args:
        steps: positive step sizes.
        decay: negative rates.
        start: the state that each document goes on from; None is zero. No document may be empty then.

    Returns:
        y, and the state at the end of every leaf.
    """
    chunks = Chunks.of(tree, x.device)
    group = max(1, VALUES // (chunks.rows.numel() * decay.shape[1]))
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (steps, decay, enter, leave, x))
    start = x.new_zeros(chunks.counts[0], *decay.shape) if start is None else start
    parts = zip(steps.split(group, 1), decay.split(group), x.split(group, 1), start.split(group, 1), strict=True)
    found = []
    for s, d, inputs, first in parts:
        arguments = (chunks, s, d, enter, leave, inputs, first)
        found.append(checkpoint(_scan, *arguments, use_reentrant=False) if learns else _scan(*arguments))
    return torch.cat([y for y, _ in found], 1), torch.cat([ends for _, ends in found], 1)


def _scan(
    chunks: Chunks, steps: Tensor, decay: Tensor, enter: Tensor, leave: Tensor, x: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    steps, enter, leave, x = (_padded(t)[chunks.rows].transpose(0, 1) for t in (steps, enter, leave, steps * x))
    # a missing position has step 0: the state passes through it unchanged
    if len(chunks.counts) > 1:
        added, _ = _run(x.new_zeros(x.shape[1], *decay.shape), steps, decay, enter, leave, x, reads=False)
        start = _starts(chunks, start, added, torch.exp(steps.sum(0)[..., None] * decay))
    end, y = _run(start, steps, decay, enter, leave, x)
    return torch.stack(y, 1).flatten(0, 1)[chunks.at], end[chunks.ends]


def _padded(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_zeros(1, x.shape[1])])


def _run(
    h: Tensor, steps: Tensor, decay: Tensor, enter: Tensor, leave: Tensor, x: Tensor, reads: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """The last state of all chunks, and their output at each step if asked for."""
    y = []
    # unbound at once: the gradient of a single index is as large as the whole
    for step, new, entering, leaving in zip(*(t.unbind() for t in (steps, x, enter, leave)), strict=True):
        h = advance(h, step, decay, entering, new)
        if reads:
            y.append(read(h, leaving))
    return h, y


def advance(
    h: Float[Tensor, "rows channels state"],
    step: Float[Tensor, "rows channels"],
    decay: Float[Tensor, "channels state"],
    enter: Float[Tensor, "rows state"],
    x: Float[Tensor, "rows channels"],
) -> Float[Tensor, "rows channels state"]:
    """States after one position; `x` is the input times its step."""
    return torch.addcmul(x[..., None] * enter[:, None], torch.exp(step[..., None] * decay), h)


def read(h: Float[Tensor, "rows channels state"], leave: Float[Tensor, "rows state"]) -> Float[Tensor, "rows channels"]:
    """Outputs of states, in their precision also where products are cast."""
    with torch.autocast(h.device.type, enabled=False):
        return (h @ leave[..., None])[..., 0]


def _starts(chunks: Chunks, first: Tensor, added: Tensor, kept: Tensor) -> Tensor:
    """The state with which every chunk starts, from what each adds to a state and keeps of it."""
    counts = chunks.counts
    starts, levels = [first], zip(added.split(counts), kept.split(counts), strict=True)
    ends = None
    for (new, share), parents in zip(levels, (None, *chunks.parents), strict=True):
        if ends is not None and parents is not None:
            starts.append(ends[parents])
        ends = torch.addcmul(new, share, starts[-1])
    return torch.cat(starts)
