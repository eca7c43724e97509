"""Samples -> one packed batch: samples about the same media share one trunk, each goes on as a branch of its own.

Loss and gradients equal the computation of every sample alone; the media are encoded, and the trunk is read, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from omniform.batch import Batch, MediaBatch, Node, SignalBatch, Told, Tree
from omniform.data.processor import Aim, Ids, MediaItem, Sample

Load = Callable[[MediaItem], Tensor]
"""Reads one medium's views, as `batch.MediaBatch` holds them."""


@dataclass
class _Draft:
    ids: list[Ids] = field(default_factory=list)
    positions: list[Ids] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    media: dict[str, list[MediaItem]] = field(default_factory=dict)
    at: list[Ids] = field(default_factory=list)
    targets: list[Ids] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    following: list[int] = field(default_factory=list)
    outputs: list[Ids] = field(default_factory=list)
    told: dict[str, list[Told]] = field(default_factory=dict)
    aims: dict[str, list[tuple[Aim, int]]] = field(default_factory=dict)
    length: int = 0

    def node(self, ids: Ids, positions: Ids, parent: int = -1) -> int:
        """Append a node; its number."""
        self.ids.append(ids)
        self.positions.append(positions)
        self.nodes.append(Node(self.length, self.length + len(ids), parent))
        self.length += len(ids)
        return len(self.nodes) - 1

    def tell(self, sample: Sample, trunk: int, start: int, branch: int) -> None:
        """Media told along with a sample, whose first `trunk` positions begin at `start`, its others at `branch`."""
        for item in sample.told:
            at = np.where(item.at < trunk, start + item.at, branch + item.at - trunk)
            self.told.setdefault(item.modality, []).append(Told(torch.from_numpy(at), torch.from_numpy(item.codes)))
        self._aim(sample, trunk, start, branch)

    def _aim(self, sample: Sample, trunk: int, start: int, branch: int) -> None:
        """Media that signals stand for, which lie whole behind the trunk or in it."""
        for item in (item for item in sample.aims if item.learn):
            moved = item.moved(start if item.first < trunk else branch - trunk)
            before = start + trunk - 1 if item.first == trunk else moved.first - 1
            self.aims.setdefault(item.modality, []).append((moved, before))

    def learn(self, at: Ids, targets: Ids, weights: np.ndarray, outputs: Ids) -> None:
        self.outputs.append(outputs)
        self.at.append(at)
        self.targets.append(targets)
        self.weights.append(weights)


def pack(samples: Sequence[Sample], load: Load, *, trees: bool = True) -> Batch:
    """One packed batch of samples.

    Args:
        load: reads the views of a medium; called once for equal media, whose rows are computed once, too.
        trees: share trunks. Without, every sample stands alone (backbones whose `trees` is False).

    Raises:
        ValueError: trunks are to be shared by samples whose prompt an encoder reads as a whole.
    """
    apart = next((s for s in samples if s.prompt), None)
    if trees and apart is not None:
        raise ValueError(
            f"document {apart.id or '(unnamed)'}: its prompt of {apart.prompt} positions is read apart from its answer "
            "and shares no trunk; pack with trees=False, as the backbone's `trees` says"
        )
    draft = _Draft()
    for members in _families(samples, trees):
        _add_family(draft, members)
    return Batch(
        ids=torch.from_numpy(np.concatenate(draft.ids)),
        positions=torch.from_numpy(np.concatenate(draft.positions, axis=-1)),
        tree=Tree(tuple(draft.nodes)),
        media={m: _media_batch(items, load) for m, items in draft.media.items()},
        predict_at=torch.from_numpy(np.concatenate(draft.at)),
        targets=torch.from_numpy(np.concatenate(draft.targets)),
        weights=torch.from_numpy(np.concatenate(draft.weights).astype(np.float32)),
        outputs=None if all(s.outputs is None for s in samples) else torch.from_numpy(np.concatenate(draft.outputs)),
        told={m: tuple(media) for m, media in draft.told.items()},
        signals={m: _signal_batch(aims, load) for m, aims in draft.aims.items()},
        documents=len(samples),
        following=tuple(draft.following),
    )


def _families(samples: Sequence[Sample], trees: bool) -> list[list[Sample]]:
    """Samples with equal media together, in order of first appearance; those without media stay alone."""
    families: dict[object, list[Sample]] = {}
    for i, sample in enumerate(samples):
        plans = tuple(item.plan for item in (*sample.media, *sample.coded))
        families.setdefault((sample.media_keys, plans) if trees and sample.media_keys else i, []).append(sample)
    return list(families.values())


def shared_length(samples: Sequence[Sample]) -> int:
    """Leading positions that all samples have in common; every sample keeps at least one, and signals, of its own."""
    first = samples[0]
    length = min(len(s) for s in samples) - 1
    for other in samples[1:]:
        differs = np.flatnonzero(first.ids[:length] != other.ids[:length])
        length = int(differs[0]) if len(differs) else length
        for a, b in zip(first.media, other.media, strict=True):
            if a.first != b.first or not np.array_equal(a.at, b.at):
                length = min(length, a.first, b.first)
    return min([length, *(item.first for sample in samples for item in sample.aims)])  # each sample has its own signals


def _add_family(draft: _Draft, samples: list[Sample]) -> None:
    first = samples[0]
    trunk = shared_length(samples) if len(samples) > 1 else len(first)
    last_media = max((item.last for item in (*first.media, *first.coded)), default=-1)
    if len(samples) > 1 and trunk <= last_media:
        for sample in samples:  # nothing worth sharing: the media themselves stand after the first difference
            _add_family(draft, [sample])
        return
    start = draft.length
    draft.following += (sample.next_position for sample in samples)
    cut = first.prompt or trunk
    root = draft.node(first.ids[:cut], first.positions[..., :cut])
    if first.prompt:
        draft.node(first.ids[cut:], first.positions[..., cut:], root)
    for item in first.media:
        draft.media.setdefault(item.modality, []).append(item.moved(start))
    counts = np.sum([s.learn[:trunk] for s in samples], axis=0)
    learned = np.flatnonzero(counts[1:]) + 1
    draft.learn(start + learned - 1, first.ids[learned], counts[learned], _outputs(first, learned))
    if len(samples) == 1:
        draft.tell(first, len(first), start, start)
    for sample in samples if len(samples) > 1 else ():
        branch = draft.length
        draft.tell(sample, trunk, start, branch)
        draft.node(sample.ids[trunk:], sample.positions[..., trunk:], root)
        learned = np.flatnonzero(sample.learn[trunk:])
        at = np.where(learned == 0, start + trunk - 1, branch + learned - 1)
        draft.learn(at, sample.ids[trunk + learned], np.ones(len(learned)), _outputs(sample, trunk + learned))


def _outputs(sample: Sample, at: Ids) -> Ids:
    """Output that each id belongs to; a sample that says none is all text, which is the first."""
    return np.zeros(len(at), np.int64) if sample.outputs is None else sample.outputs[at]


def _media_batch(items: list[MediaItem], load: Load) -> MediaBatch:
    firsts: dict[object, int] = {}
    same = [firsts.setdefault((item.media.key, item.plan), i) for i, item in enumerate(items)]
    views = {i: load(items[i]) for i in firsts.values()}
    return MediaBatch(
        views=tuple(views[i] for i in same),
        plans=tuple(item.plan for item in items),
        at=torch.from_numpy(np.concatenate([item.at for item in items])),
        anchors=torch.tensor([item.first for item in items]),
        same=tuple(same) if len(views) < len(items) else (),
    )


def _signal_batch(aims: list[tuple[Aim, int]], load: Load) -> SignalBatch:
    return SignalBatch(
        at=torch.from_numpy(np.stack([item.at for item, _ in aims])),
        before=torch.tensor([before for _, before in aims]),
        captions=tuple(item.caption for item, _ in aims),
        views=tuple(load(item) for item, _ in aims if item.plan.views),
    )
