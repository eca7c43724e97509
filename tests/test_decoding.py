"""What decoding stands on: batches that share media, blocks that share trunks, a cache that grows and folds."""

from itertools import pairwise

import pytest
import torch
from engines import documents, make_engine

from omniform.backbones.llama import LLAMA_7B
from omniform.batch import Node, Tree
from omniform.data.packing import pack
from omniform.inference.batches import batches
from omniform.inference.cache import KeyValues
from omniform.inference.decoding import Decoding, Place, slots_for
from omniform.inference.sampling import GenerationConfig


@pytest.fixture(scope="module")
def engine():
    return make_engine()


def test_batches_keep_media_together_within_positions(engine):
    asked = documents()
    found = list(batches(asked, lambda i: engine.sample(asked[i]), 200))
    assert sorted(n for batch in found for n, _ in batch) == list(range(len(asked)))
    for batch in found:
        assert pack([s for _, s in batch], engine.load).tree.length <= 200
        families = [s.media_keys for _, s in batch if s.media_keys]
        changes = sum(a != b for a, b in pairwise(families))
        assert changes == max(len(set(families)) - 1, 0)
    alone = list(batches(asked, lambda i: engine.sample(asked[i]), 1))
    assert [len(batch) for batch in alone] == [1] * len(asked)


def test_progress_counts_documents():
    calls = []
    asked = documents()
    make_engine(positions=200).generate(asked, GenerationConfig(max_new_tokens=1), lambda *a: calls.append(a))
    assert len(calls) > 3 and calls[-1] == (len(asked), len(asked))
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})


# --- the cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("families", "slots"),
    [([1], 1), ([1] * 50, 1), ([5], 5), ([40], 16), ([10] * 20, 10), ([12, *[1] * 100], 1), ([8, 9, 10, 11, 12], 12)],
)
def test_blocks_hold_as_many_rows_as_leave_few_slots_empty(families, slots):
    assert slots_for(families) == slots


def test_cache_grows_keeps_and_folds():
    cache, columns = KeyValues(), torch.randn(1, 2, 90, 3)
    for start, stop in ((0, 10), (10, 11), (11, 60), (60, 90)):
        keys, values = cache.update(columns[:, :, start:stop], -columns[:, :, start:stop], 0)
        assert torch.equal(keys, columns[:, :, :stop]) and torch.equal(values, -columns[:, :, :stop])
    cache.keep(20)
    assert cache.columns == cache.get_seq_length() == 20
    cells = torch.tensor([[0, 1, 2, 0], [0, 7, 8, 19]])
    folded = cache.fold(cells, 3)
    assert torch.equal(folded.layers[0].keys, columns[0][:, cells[:, :3]].transpose(0, 1))
    assert (folded.columns, folded.capacity) == (3, 4)
    keys, _ = folded.update(torch.ones(2, 2, 1, 3), torch.ones(2, 2, 1, 3), 0)
    assert torch.equal(keys[:, :, 3], torch.ones(2, 2, 3)) and torch.equal(keys[1, :, 1], columns[0, :, 7])


def test_rows_that_are_done_leave_the_cache():
    tree = Tree((Node(0, 10), Node(10, 13, 0), Node(13, 15, 0), Node(15, 18, 0), Node(18, 22, 0), Node(22, 30)))
    torch.manual_seed(0)
    backbone = LLAMA_7B.shrunk("tiny").build().eval()
    cache = KeyValues()
    ids = torch.randint(0, 128, (30,))
    with torch.inference_mode():
        backbone(backbone.embed(ids), tree.depth, tree, cache)
    decoding = Decoding(backbone, cache, Place.of(tree, [13, 12, 13, 14, 8]))
    cells = [tuple(decoding.positions.shape)]
    assert decoding.cache.like.shape[::2] == (3, 17)  # two blocks of the family: 10 + 3 + 2, 10 + 3 + 4
    decoding.step(torch.arange(5))
    decoding.keep([1, 3, 4])
    cells.append(tuple(decoding.positions.shape))
    hidden = decoding.step(torch.tensor([7, 8, 9]))
    decoding.keep([1])
    cells.append(tuple(decoding.positions.shape))
    assert cells == [(3, 2), (3, 1), (1, 1)]  # rows 1 and 3 stand in different blocks
    assert decoding.cache.like.shape[::2] == (1, 16) and decoding.mask is None
    chain = torch.cat([ids[:10], ids[18:22], torch.tensor([3, 8])])
    with torch.inference_mode():
        alone = backbone(backbone.embed(chain), torch.arange(16), Tree.of([16]))[-1]
    assert (hidden[1] - alone).abs().max() < 1e-5
