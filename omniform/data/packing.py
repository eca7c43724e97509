"""Samples -> one packed batch: samples about the same media share one trunk, and branches of it as far as they agree.

Below all trunks lie the words that every sample opens with. Loss and gradients equal the computation of every sample
alone; media are encoded, and what samples have in common is read, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from omniform.batch import Batch, MediaBatch, Node, SignalBatch, Told, Tree
from omniform.data.processor import Aim, Ids, MediaItem, Sample

Load = Callable[[MediaItem], Tensor]
"""Reads one medium's views, as `batch.MediaBatch` holds them."""
NONE = np.arange(0)
WORTH_SHARING = 16
"""Positions that documents about different media must open with alike for them to be read once."""


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

    def segment(self, samples: Sequence[Sample], start: int, stop: int, parent: int = -1) -> int:
        """Append positions that samples have in common, below a node; what each learns of them counts. Its number."""
        first, at = samples[0], self.length
        self.ids.append(first.ids[start:stop])
        self.positions.append(first.positions[..., start:stop])
        self.nodes.append(Node(at, at + stop - start, parent))
        self.length += stop - start
        if any(sample.learn[start:stop].any() for sample in samples):
            self._learn(samples, start, stop)
        return len(self.nodes) - 1

    def _learn(self, samples: Sequence[Sample], start: int, stop: int) -> None:
        """What samples learn of the last node, which holds these positions of theirs."""
        first, (at, _, parent) = samples[0], self.nodes[-1]
        counts = np.sum([s.learn[start:stop] for s in samples], axis=0)
        learned = np.flatnonzero(counts) if parent >= 0 else np.flatnonzero(counts[1:]) + 1
        self.at.append(np.where(learned == 0, self.nodes[parent].stop - 1, at + learned - 1))
        self.targets.append(first.ids[start + learned])
        self.weights.append(counts[learned])
        self.outputs.append(_outputs(first, start + learned))

    def tell(self, sample: Sample, node: int) -> None:
        """What a sample that ends with a node tells besides text: media told along with its words, media that signals
        stand for."""
        if not sample.told and not sample.aims:
            return
        places = self._places(node)
        for item in sample.told:
            told = Told(torch.from_numpy(places[item.at]), torch.from_numpy(item.codes))
            self.told.setdefault(item.modality, []).append(told)
        for aim in (aim for aim in sample.aims if aim.learn):
            moved = aim.moved(int(places[aim.first]) - aim.first)  # signals of one medium lie in one node
            self.aims.setdefault(aim.modality, []).append((moved, int(places[aim.first - 1])))

    def _places(self, node: int) -> Ids:
        """Flat positions of the chain that ends with a node."""
        start, stop, above = self.nodes[node]
        own = np.arange(start, stop)
        return own if above < 0 else np.concatenate([self._places(above), own])


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
    draft, families = _Draft(), _families(samples, trees)
    opening = opening_length(samples) if trees and len(families) > 1 else 0
    root = draft.segment(samples, 0, opening) if opening else -1
    for members in families:
        _add_family(draft, members, opening, root)
    return Batch(
        ids=torch.from_numpy(np.concatenate(draft.ids)),
        positions=torch.from_numpy(np.concatenate(draft.positions, axis=-1)),
        tree=Tree(tuple(draft.nodes)),
        media={m: _media_batch(items, load) for m, items in draft.media.items()},
        predict_at=torch.from_numpy(np.concatenate([NONE, *draft.at])),
        targets=torch.from_numpy(np.concatenate([NONE, *draft.targets])),
        weights=torch.from_numpy(np.concatenate([NONE, *draft.weights]).astype(np.float32)),
        outputs=None
        if all(s.outputs is None for s in samples)
        else torch.from_numpy(np.concatenate([NONE, *draft.outputs])),
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


def likeness(sample: Sample) -> tuple[tuple[str, ...], bytes]:
    """What samples are sorted by so that neighbours share most when they are packed: media, then ids."""
    return sample.media_keys, sample.ids.tobytes()


def shared_length(samples: Sequence[Sample], done: int = 0) -> int:
    """Leading positions that all samples have in common; every sample keeps at least one, and signals, of its own.

    Args:
        done: of which so many are known, media among them.
    """
    first = samples[0]
    length = min(len(s) for s in samples) - 1
    for other in samples[1:]:
        differs = np.flatnonzero(first.ids[done:length] != other.ids[done:length])
        length = done + int(differs[0]) if len(differs) else length
        for a, b in zip(first.media, other.media, strict=True) if not done else ():
            if a.first != b.first or not np.array_equal(a.at, b.at):
                length = min(length, a.first, b.first)
    return min([length, *(item.first for sample in samples for item in sample.aims)])  # each sample has its own signals


def opening_length(samples: Sequence[Sample]) -> int:
    """Leading words that samples about different media have in common (a system's prompt); 0 where hardly any.

    Every sample keeps at least one position of its own, and all its media.
    """
    first = samples[0]
    length = min(min((item.first for item in (*s.media, *s.coded, *s.aims)), default=len(s) - 1) for s in samples)
    for other in samples[1:]:
        differs = np.flatnonzero(first.ids[:length] != other.ids[:length])
        length = int(differs[0]) if len(differs) else length
    return length if length >= WORTH_SHARING else 0


def _add_family(draft: _Draft, samples: list[Sample], done: int, above: int) -> None:
    """Samples about the same media, whose first `done` positions are the node `above`."""
    first = samples[0]
    last_media = max((item.last for item in (*first.media, *first.coded)), default=-1)
    stop = shared_length(samples) if len(samples) > 1 else len(first)
    if len(samples) > 1 and stop <= last_media:
        for sample in samples:  # nothing worth sharing: the media themselves stand after the first difference
            _add_family(draft, [sample], done, above)
        return
    for item in first.media:
        draft.media.setdefault(item.modality, []).append(item.moved(draft.length - done))
    _grow(draft, [(samples, stop)], done, above)


def _grow(draft: _Draft, groups: Iterable[tuple[Sequence[Sample], int]], done: int, above: int) -> None:
    """What groups of samples, alike as far as is said, add to the node `above`, with which `done` positions end."""
    for group, stop in groups:
        first = group[0]
        if len(group) > 1:
            _grow(draft, _alike(group, stop), stop, draft.segment(group, done, stop, above))
            continue
        read = first.prompt or done
        node = draft.segment(group, done, read, above) if read > done else above
        draft.tell(first, draft.segment(group, read, stop, node))
        draft.following.append(first.next_position)


def _alike(samples: Sequence[Sample], done: int) -> Iterator[tuple[Sequence[Sample], int]]:
    """Neighbours that go on alike after a trunk of `done` positions, and how far; others alone, to their end."""
    for _, members in groupby(samples, key=lambda sample: sample.ids[done]):
        group = list(members)
        stop = shared_length(group, done) if len(group) > 1 else done
        yield from [(group, stop)] if stop > done else (([sample], len(sample)) for sample in group)


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
