"""What samples have in common is read once: an opening of all, trunks of those about the same media, branches."""

import numpy as np
import pytest
import torch

from omniform.data.document import Media
from omniform.data.packing import likeness, opening_length, pack
from omniform.data.processor import MediaItem, Sample
from omniform.geometry import Plan

WORDS = list(range(1, 21))


def sample(ids, medium=None, at=(), learn=()):
    ids = np.array(ids)
    media = (MediaItem("image", Media("image", medium), Plan((), (0, 0), ()), np.array(at)),) if medium else ()
    learned = np.zeros(len(ids), dtype=bool)
    learned[list(learn)] = True
    return Sample(ids, learned, np.arange(len(ids)), len(ids), media)


A1 = sample([*WORDS, 0, 0, 30, 31], "a.png", (20, 21), learn=(23,))
A2 = sample([*WORDS, 0, 0, 40, 41, 42], "a.png", (20, 21), learn=(22, 24))
B = sample([*WORDS, 0, 0, 30, 31], "b.png", (20, 21), learn=(23,))
TEXT = sample([*WORDS, 50, 51, 52], learn=(20, 22))


def nodes(*samples):
    batch = pack(samples, lambda item: torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    return batch, [tuple(node) for node in batch.tree.nodes]


def test_the_words_that_all_open_with_lie_below_every_trunk():
    batch, tree = nodes(A1, A2, B, TEXT)
    assert tree == [
        (0, 20, -1), (20, 22, 0), (22, 24, 1), (24, 27, 1), (27, 31, 0), (31, 34, 0),
    ]  # fmt: skip
    assert batch.ids[:20].tolist() == WORDS
    assert batch.media["image"].at.tolist() == [20, 21, 27, 28]
    assert batch.positions[27:].tolist() == [20, 21, 22, 23, 20, 21, 22]
    said = zip(batch.predict_at.tolist(), batch.targets.tolist(), batch.weights.tolist(), strict=True)
    assert list(said) == [(22, 31, 1), (21, 40, 1), (25, 42, 1), (29, 31, 1), (19, 50, 1), (32, 52, 1)]


def test_words_of_an_opening_count_as_often_as_they_are_learned():
    batch, _ = nodes(*(sample(s.ids, learn=(3, 20)) for s in (A1, TEXT)))
    said = zip(batch.predict_at.tolist(), batch.targets.tolist(), batch.weights.tolist(), strict=True)
    assert list(said) == [(2, 4, 2), (19, 0, 1), (19, 50, 1)]


def test_one_trunk_holds_its_own_opening():
    assert nodes(A1, A2)[1] == [(0, 22, -1), (22, 24, 0), (24, 27, 0)]


def test_neighbours_share_as_far_as_they_agree():
    a, b, c = (
        sample([*WORDS, 0, 0, 30, *ids], "a.png", (20, 21), learn=(23, 24)) for ids in ((31, 32), (31, 33), (34, 35))
    )
    batch, tree = nodes(a, b, c, a)
    assert tree == [
        (0, 23, -1), (23, 24, 0), (24, 25, 1), (25, 26, 1), (26, 28, 0), (28, 30, 0),
    ]  # fmt: skip
    assert batch.following == (25,) * 4
    said = zip(batch.predict_at.tolist(), batch.targets.tolist(), batch.weights.tolist(), strict=True)
    assert list(said) == [(22, 31, 2), (23, 32, 1), (23, 33, 1), (22, 34, 1), (26, 35, 1), (22, 31, 1), (28, 32, 1)]
    assert nodes(*sorted((a, b, c, a), key=likeness))[1] == [
        (0, 23, -1), (23, 24, 0), (24, 25, 1), (25, 26, 1), (26, 27, 1), (27, 29, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "samples, length",
    [
        ((A1, B, TEXT), 20),
        ((A1, sample([*WORDS[:17], 0, 30], "c.png", (17,))), 17),
        ((A1, sample([*WORDS[:17], 60, 61])), 17),
        ((A1, sample([*WORDS[:15], 60, 61])), 0),  # hardly worth it
        ((TEXT, sample(WORDS)), 19),  # each keeps a position of its own
    ],
)
def test_openings_end_where_samples_differ_or_media_begin(samples, length):
    assert opening_length(samples) == length
