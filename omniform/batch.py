"""The packed batch: one flat sequence of positions without padding, and the attention tree over it.

A document is a chain of nodes from a root: documents about the same medium share the root (the *trunk*), and each
question-answer *branch* sees the trunk and itself only. Where all documents open with the same words, these are the
root, and trunks hang on it. Position ids run along the chain, so every branch computes
what it would compute alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Self, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from omniform.geometry import Grid, Plan


class Node(NamedTuple):
    """Positions [start, stop) that continue the node `parent` (-1: a root)."""

    start: int
    stop: int
    parent: int = -1


@dataclass(frozen=True)
class Tree:
    """Who attends to whom in a flat sequence: a position sees itself, what precedes it in its node, and its ancestors.

    Nodes of one root are consecutive and parents come before children.

    Raises:
        ValueError: nodes leave out or repeat positions, or continue a node that is not of their root.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        taken, root = 0, -1
        for i, (start, stop, parent) in enumerate(self.nodes):
            if start != taken or stop < start:
                raise ValueError(f"node {i} covers {start} to {stop}, but must start at {taken}, where the last ended")
            if parent >= 0 and not root <= parent < i:
                raise ValueError(f"node {i} continues node {parent}, but its document has nodes {root} to {i - 1}")
            taken, root = stop, root if parent >= 0 else i

    @staticmethod
    def of(lengths: Sequence[int]) -> Tree:
        """Plain packing: one root for each document."""
        ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
        return Tree(tuple(Node(a, b) for a, b in pairwise(ends)))

    @property
    def length(self) -> int:
        return self.nodes[-1].stop if self.nodes else 0

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each root with all that hangs on it: attention never leaves a span."""
        starts = [n.start for n in self.nodes if n.parent < 0]
        return tuple(zip(starts, [*starts[1:], self.length], strict=True))

    @cached_property
    def is_plain(self) -> bool:
        """Whether every document stands alone (no shared trunk)."""
        return all(n.parent < 0 for n in self.nodes)

    @cached_property
    def node_of(self) -> Int[Tensor, " n"]:
        lengths = torch.tensor([n.stop - n.start for n in self.nodes])
        return torch.repeat_interleave(torch.arange(len(self.nodes)), lengths)

    @cached_property
    def ancestors(self) -> Tensor:
        """[nodes, nodes] bool: column is the row's node itself or an ancestor of it."""
        seen = torch.eye(len(self.nodes), dtype=torch.bool)
        for i, node in enumerate(self.nodes):
            if node.parent >= 0:
                seen[i] |= seen[node.parent]
        return seen

    @cached_property
    def depth(self) -> Int[Tensor, " n"]:
        """Distance of each position from the start of its document, along its chain."""
        before: list[int] = []
        for node in self.nodes:
            above = self.nodes[node.parent] if node.parent >= 0 else None
            before.append(before[node.parent] + above.stop - above.start if above else 0)
        offset = torch.tensor([b - n.start for b, n in zip(before, self.nodes, strict=True)])
        return torch.arange(self.length) + offset[self.node_of]

    @cached_property
    def span_of(self) -> Int[Tensor, " n"]:
        """Number of each position's span: of its root with all that hangs on it."""
        return torch.repeat_interleave(torch.arange(len(self.spans)), torch.tensor([b - a for a, b in self.spans]))

    def last_seen(self, anchors: Int[Tensor, " anchors"]) -> Int[Tensor, " n"]:
        """For each position the last of some positions that it sees, itself included: its number; -1 where none is.

        Of anchors at one position the last counts.
        """
        if not len(anchors):
            return torch.full((self.length,), -1)
        anchors = anchors.cpu()
        seen = self.ancestors[self.node_of][:, self.node_of[anchors]] & (anchors <= torch.arange(self.length)[:, None])
        order = self.depth[anchors] * len(anchors) + torch.arange(len(anchors))
        latest, which = order.masked_fill(~seen, -1).max(1) if len(seen) else (order[:0], order[:0])
        return torch.where(latest < 0, -1, which)

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What an attention back end derived from this tree, kept for its other layers."""
        return {}

    def document_means(self, values: Float[Tensor, "n width"]) -> Float[Tensor, "documents width"]:
        """Mean over the positions of each document (leaf), its trunks included."""
        sums = values.new_zeros(len(self.nodes), values.shape[1]).index_add(0, self.node_of.to(values.device), values)
        chains = self.ancestors[list(self.leaves)]
        lengths = chains.double() @ torch.tensor([float(n.stop - n.start) for n in self.nodes]).double()
        return (chains.to(sums) @ sums) / lengths[:, None].to(sums)

    def mask(self, at: Int[Tensor, " n"] | None = None, window: int | None = None, first: int = 0) -> Tensor:
        """[n, n] bool over these positions (all), in order: True where the row may attend to the column.

        With `window` only the last `window` positions of the chain are seen. Rows before `first` are left out.
        """
        at = torch.arange(self.length) if at is None else at
        node, depth = self.node_of[at], self.depth[at]
        order = torch.arange(len(node))
        seen = self.ancestors[node[first:]][:, node] & (order <= order[first:, None])
        return seen if window is None else seen & (depth[first:, None] - depth < window)

    def path(self, node: int) -> list[Node]:
        """The chain from the root to a node: one whole document."""
        chain = []
        while node >= 0:
            chain.append(self.nodes[node])
            node = self.nodes[node].parent
        return chain[::-1]

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        parents = {n.parent for n in self.nodes}
        return tuple(i for i in range(len(self.nodes)) if i not in parents)

    @cached_property
    def lasts(self) -> list[int]:
        """The last position of each leaf."""
        return [self.nodes[leaf].stop - 1 for leaf in self.leaves]


@dataclass(frozen=True)
class Features:
    """Encoder or connector output: one row of `values` per cell of `grid`, row-major.

    Attributes:
        kept: cells that were chosen, where the encoder chooses; None is all.
    """

    values: Float[Tensor, "views cells dim"]
    grid: Grid
    kept: Bool[Tensor, "views cells"] | None = None

    @staticmethod
    def joined(members: Sequence[Features]) -> Features:
        """Views of one grid together; all of them choose, or none."""
        kept = [f.kept for f in members if f.kept is not None]
        return Features(torch.cat([f.values for f in members]), members[0].grid, torch.cat(kept) if kept else None)

    def split(self, counts: list[int]) -> list[Features]:
        """Views apart again."""
        kept = [None] * len(counts) if self.kept is None else self.kept.split(counts)
        return [Features(v, self.grid, k) for v, k in zip(self.values.split(counts), kept, strict=True)]


@dataclass(frozen=True)
class Loss:
    """A sum over learned items and the sum of their weights; the mean is invariant to how documents were packed."""

    total: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    @property
    def mean(self) -> Float[Tensor, ""]:
        return self.total / self.weight

    @staticmethod
    def of_documents(values: Float[Tensor, " documents"]) -> Loss:
        """One value for each document, which all weigh the same."""
        return Loss(values.sum(), values.new_tensor(float(len(values))))


Notes: TypeAlias = dict[str, list[Tensor]]
"""What modules write down for losses of their own while they run: name -> one entry of each module."""


@dataclass(frozen=True)
class MediaBatch:
    """All media of one modality in a batch.

    Attributes:
        views: for each medium its views: pictures of 8 bits (views, 3, height, width), or waveforms of one channel
            (views, 1, samples).
        plans: for each medium its plan.
        at: flat positions that the media rows take, in order; none where they take no positions.
        anchors: for each medium the first flat position that sees it.
        same: for each medium the number of the first equal to it, whose rows it shares; () where all differ.
    """

    views: tuple[UInt8[Tensor, "_views 3 _height _width"] | Float[Tensor, "_views 1 _samples"], ...]
    plans: tuple[Plan, ...]
    at: Int[Tensor, " rows"]
    anchors: Int[Tensor, " media"] = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    same: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> Self:
        moved = {id(v): v.to(device, non_blocking=True) for v in self.views}
        return replace(self, views=tuple(moved[id(v)] for v in self.views), at=self.at.to(device))

    @property
    def once(self) -> Self:
        """Each of equal media once."""
        kept = sorted(set(self.same)) if self.same else range(len(self.views))
        return replace(
            self, views=tuple(self.views[i] for i in kept), plans=tuple(self.plans[i] for i in kept), same=()
        )


class Told(NamedTuple):
    """A medium that is told along with an answer, and learned.

    Attributes:
        at: flat positions of the answer's tokens, whose hidden states it is told from.
        codes: what is to be told.
    """

    at: Int[Tensor, " tokens"]
    codes: Int[Tensor, " codes"]


@dataclass(frozen=True)
class SignalBatch:
    """Media of one modality that signals stand for in a batch, and that are learned.

    Attributes:
        at: flat positions of the tokens of each signal.
        before: flat position that each signal's first token is predicted from.
        captions: what the media show, in words.
        views: what losses see of each medium; () where the captions are enough.
    """

    at: Int[Tensor, "media tokens"]
    before: Int[Tensor, " media"]
    captions: tuple[str, ...]
    views: tuple[Tensor, ...] = ()

    def to(self, device: torch.device | str) -> Self:
        views = tuple(v.to(device, non_blocking=True) for v in self.views)
        return replace(self, at=self.at.to(device), before=self.before.to(device), views=views)


@dataclass(frozen=True)
class Placed:
    """The media of one input as its fusion finds them in a packed batch; there may be none.

    Attributes:
        rows: of all media, from the connector.
        counts: rows of each medium.
        at: flat positions that the rows take; none where they take no positions.
        anchors: for each medium the first flat position that sees it.
    """

    rows: Float[Tensor, "rows width"]
    counts: tuple[int, ...]
    at: Int[Tensor, " places"]
    anchors: Int[Tensor, " media"]
    tree: Tree


class State(ABC):
    """What a fusion's layers must know in one call, for every position that they read.

    A fusion makes it for a packed sequence (hidden states (1, n, dim)); `at` and `after` give it for (rows, new, dim).
    """

    @abstractmethod
    def at(self, positions: Int[Tensor, "rows new"]) -> State | None:
        """The same for some positions of the packed sequence, given by their flat numbers; None: nothing to know."""

    def after(self, positions: Int[Tensor, "rows new"]) -> State | None:
        """For new text that goes on after these positions; what these see, it sees."""
        return self.at(positions)


@dataclass(frozen=True)
class Fused:
    """States of all fusions in one call; it travels as the keyword argument `fused` into the backbone's layers."""

    states: Mapping[nn.Module, State]

    def at(self, positions: Int[Tensor, "rows new"]) -> Fused | None:
        """States of some positions; None where no fusion has one."""
        return _fused({fusion: state.at(positions) for fusion, state in self.states.items()})

    def after(self, positions: Int[Tensor, "rows new"]) -> Fused | None:
        """States of new text that goes on after some positions; None where no fusion has one."""
        return _fused({fusion: state.after(positions) for fusion, state in self.states.items()})


def _fused(states: Mapping[nn.Module, State | None]) -> Fused | None:
    known = {fusion: state for fusion, state in states.items() if state is not None}
    return Fused(known) if known else None


@dataclass(frozen=True)
class Batch:
    """One packed batch.

    Attributes:
        ids: token ids; at media positions any valid id (it is overwritten).
        positions: position ids, restarting for each document.
        tree: the attention structure.
        media: modality -> media.
        predict_at, targets, weights: what is learned: at which position, which token, how much it counts. A
            position where branches part may have several targets.
        outputs: number of the system's output that each target belongs to; None where all are text.
        told: modality -> media told along with answers.
        signals: modality -> media that signals stand for.
        documents: number of documents.
        following: position id of what follows each document, in the order of the tree's leaves.
    """

    ids: Int[Tensor, " n"]
    positions: Int[Tensor, "*axes n"]
    tree: Tree
    media: Mapping[str, MediaBatch] = field(default_factory=dict)
    predict_at: Int[Tensor, " m"] = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    targets: Int[Tensor, " m"] = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    weights: Float[Tensor, " m"] = field(default_factory=lambda: torch.empty(0))
    outputs: Int[Tensor, " m"] | None = None
    told: Mapping[str, tuple[Told, ...]] = field(default_factory=dict)
    signals: Mapping[str, SignalBatch] = field(default_factory=dict)
    documents: int = 1
    following: tuple[int, ...] = ()

    def of(self, output: int, modality: str) -> Self:
        """The same batch with what one output learns, given by its number and modality."""
        own: dict[str, Any] = {
            name: {m: media for m, media in held.items() if m == modality}
            for name, held in (("told", self.told), ("signals", self.signals))
            if held.keys() - {modality}
        }
        if self.outputs is not None:
            kept = self.outputs == output
            own |= {n: getattr(self, n)[kept] for n in ("predict_at", "targets", "weights", "outputs")}
        elif modality != "text":
            own |= {n: getattr(self, n)[:0] for n in ("predict_at", "targets", "weights")}
        return replace(self, **own) if own else self

    def to(self, device: torch.device | str) -> Self:
        names = ("ids", "positions", "predict_at", "targets", "weights", *(("outputs",) * (self.outputs is not None)))
        moved = {n: getattr(self, n).to(device) for n in names}
        told = {m: tuple(Told(t.at.to(device), t.codes.to(device)) for t in media) for m, media in self.told.items()}
        media = {m: b.to(device) for m, b in self.media.items()}
        signals = {m: s.to(device) for m, s in self.signals.items()}
        return replace(self, media=media, told=told, signals=signals, **moved)
