"""Attention over trees and over caches, against a softmax written out."""

import random
from itertools import product

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from omniform.attention import compiled_flex, flex_arguments, limb_pieces, limbs_of, tree_attention
from omniform.batch import Node, Tree

TREE = Tree((Node(0, 3), Node(3, 5), Node(5, 6, 1), Node(6, 8, 1), Node(8, 9, 3)))
"""A document of 3; a trunk of 2 with a branch of 1 and a branch of 2 that has a branch of 1."""
OPENING = Tree(
    (Node(0, 2), Node(2, 9, 0), Node(9, 11, 1), Node(11, 15, 1), Node(15, 24, 0), Node(24, 27, 0), Node(27, 28, 5))
)
"""Two positions that three documents open with: a trunk with two branches, one alone, a trunk with one."""
SLOPES = (0.5, 0.25, 0.125, 0.0625)


def random_tree(seed, documents=4, longest=9):
    rng = random.Random(seed)
    nodes = []
    for _ in range(documents):
        first = len(nodes)
        for _ in range(rng.randint(1, 5)):
            start = nodes[-1].stop if nodes else 0
            parent = rng.randint(first, len(nodes) - 1) if len(nodes) > first else -1
            nodes.append(Node(start, start + rng.randint(1, longest), parent))
    return Tree(tuple(nodes))


TREES = (*map(random_tree, range(3)), OPENING)


def random_qkv(length, heads=4, kv_heads=2, dim=8, rows=1):
    torch.manual_seed(0)
    return tuple(torch.randn(rows, h, length, dim, requires_grad=True) for h in (heads, kv_heads, kv_heads))


def reference(q, k, v, seen, back=None, slopes=None):
    """Softmax attention written out: (rows, heads, queries, dim)."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    if slopes is not None:
        scores = scores - torch.tensor(slopes)[:, None, None] * back
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


def test_the_mask_of_a_tree():
    drawn = """
        #........
        ##.......
        ###......
        ...#.....
        ...##....
        ...###...
        ...##.#..
        ...##.##.
        ...##.###"""
    rows = ["".join("#" if cell else "." for cell in row) for row in TREE.mask()]
    assert rows == drawn.split()
    assert TREE.depth.tolist() == [0, 1, 2, 0, 1, 2, 2, 3, 4]
    assert TREE.spans == ((0, 3), (3, 9))
    assert TREE.leaves == (0, 2, 4)
    assert [n.start for n in TREE.path(4)] == [3, 6, 8]
    assert not TREE.is_plain
    assert Tree.of([2, 3]) == Tree((Node(0, 2), Node(2, 5)))


def test_trees_that_are_none_are_refused():
    with pytest.raises(ValueError, match="node 1 covers 4 to 6, but must start at 3, where the last ended"):
        Tree((Node(0, 3), Node(4, 6)))
    with pytest.raises(ValueError, match="node 2 continues node 0, but its document has nodes 1 to 1"):
        Tree((Node(0, 3), Node(3, 5), Node(5, 6, 0)))
    with pytest.raises(ValueError, match="node 1 continues node 1, but its document has nodes 0 to 0"):
        Tree((Node(0, 3), Node(3, 5, 1)))


def test_the_window_of_a_tree_counts_along_the_chain():
    assert TREE.mask(window=2)[8].nonzero().flatten().tolist() == [7, 8]
    assert TREE.mask(window=3)[6].nonzero().flatten().tolist() == [3, 4, 6]
    assert TREE.mask(torch.arange(3, 9), window=2)[3].nonzero().flatten().tolist() == [1, 3]


@pytest.mark.parametrize("tree, window, slopes", list(product(TREES, (None, 4), (None, SLOPES))))
def test_tree_attention_equals_softmax_under_the_mask(tree, window, slopes):
    q, k, v = random_qkv(tree.length)
    out, _ = tree_attention(torch.nn.Module(), q, k, v, None, tree=tree, sliding_window=window, slopes=slopes)
    back = tree.depth[:, None] - tree.depth[None, :]
    expected = reference(q, k, v, tree.mask(window=window), back, slopes).transpose(1, 2)
    assert torch.allclose(out, expected, atol=1e-5)
    weight = torch.randn_like(expected)
    for got, want in zip(*(torch.autograd.grad((x * weight).sum(), (q, k, v)) for x in (out, expected)), strict=True):
        assert torch.allclose(got, want, atol=1e-5)


def test_what_hangs_on_a_short_root_attends_limb_by_limb():
    assert limbs_of(OPENING) == [(0, 2, (0, 0)), (2, 15, (0, 2)), (15, 24, (0, 2)), (24, 28, (0, 2))]
    assert limbs_of(TREE) == [(0, 3, (0, 0)), (3, 9, (0, 0))]
    pieces = [
        [(p.rows, p.keys, p.mask is None) for p in found]
        for _, found in limb_pieces(OPENING, None, None, torch.zeros(1, 1, 28, 4))
    ]
    assert pieces == [
        [((0, 2), 2, True)],
        [((0, 9), 9, True), ((9, 15), 15, False)],
        [((0, 11), 11, True)],
        [((0, 5), 5, True), ((5, 6), 6, False)],
    ]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("seed, window, slopes", list(product(range(2), (None, 4), (None, SLOPES))))
def test_the_fused_kernel_gets_the_same_mask_and_scores(seed, window, slopes):
    tree = random_tree(seed)
    q, k, v = random_qkv(tree.length)
    block_mask, score = flex_arguments(tree, q.device, window, slopes)
    q, k, v = (x.detach() for x in (q, k, v))
    out = flex_attention(q, k, v, score_mod=score, block_mask=block_mask, enable_gqa=True)
    here, _ = tree_attention(torch.nn.Module(), q, k, v, None, tree=tree, sliding_window=window, slopes=slopes)
    assert torch.allclose(out.transpose(1, 2), here, atol=1e-5)


def test_the_fused_kernel_is_compiled_once_and_masks_are_made_once_for_all_layers():
    assert compiled_flex() is compiled_flex()
    assert flex_arguments(TREE, torch.device("cpu"), None) is flex_arguments(TREE, torch.device("cpu"), None)
    q = torch.zeros(1, 1, 9, 4)
    assert limb_pieces(TREE, None, None, q) is limb_pieces(TREE, None, None, q)


def test_documents_alone_attend_causally_without_a_mask():
    q = torch.zeros(1, 1, 9, 4)
    masks = [[piece.mask for piece in pieces] for _, pieces in limb_pieces(Tree.of([4, 5]), 5, None, q)]
    assert masks == [[None], [None]]
    _, (trunk, branches) = limb_pieces(TREE, None, None, q)[1]
    assert (trunk.mask, trunk.rows, trunk.keys) == (None, (0, 2), 2)
    assert (branches.mask.shape, branches.rows, branches.keys) == ((1, 1, 4, 6), (2, 6), 6)


@pytest.mark.parametrize("window, slopes", list(product((None, 3), (None, SLOPES))))
def test_new_queries_without_a_mask_see_the_whole_cache(window, slopes):
    _, k, v = random_qkv(7)
    q = torch.randn(1, 4, 3, 8)
    out, _ = tree_attention(torch.nn.Module(), q, k, v, None, sliding_window=window, slopes=slopes)
    back = torch.arange(4, 7)[:, None] - torch.arange(7)[None, :]
    seen = (back >= 0) & (back < (window or 99))
    assert torch.allclose(out, reference(q, k, v, seen, back, slopes).transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("window, slopes", list(product((None, 3), (None, SLOPES))))
@pytest.mark.parametrize("boolean", (True, False))
def test_padding_between_keys_does_not_count_as_distance(window, slopes, boolean):
    _, k, v = random_qkv(6)
    q = torch.randn(1, 4, 1, 8)
    padded = [torch.cat([x[:, :, :4], torch.full((1, 2, 5, 8), 9.0), x[:, :, 4:]], 2) for x in (k, v)]
    mask = torch.tensor([True] * 4 + [False] * 5 + [True] * 2).view(1, 1, 1, 11)
    mask = mask if boolean else torch.zeros(1, 1, 1, 11).masked_fill(~mask, torch.finfo(torch.float32).min)
    out, _ = tree_attention(torch.nn.Module(), q, *padded, mask, sliding_window=window, slopes=slopes)
    expected, _ = tree_attention(torch.nn.Module(), q, k, v, None, sliding_window=window, slopes=slopes)
    assert torch.allclose(out, expected, atol=1e-6)


def test_dropout_reaches_the_weights():
    q, k, _ = random_qkv(TREE.length)
    v = torch.ones(1, 2, TREE.length, 8)
    out, _ = tree_attention(torch.nn.Module(), q, k, v, None, dropout=0.5, tree=TREE)
    # the first position of a document has one weight, dropped to 0 or doubled
    assert set(out[0, 0, :, 0].tolist()) <= {0.0, 2.0}
    assert out[0, 3:].std() > 0.1


def test_scaling_is_the_models_own():
    q, k, v = random_qkv(TREE.length)
    out, _ = tree_attention(torch.nn.Module(), q * 8**-0.5, k, v, None, scaling=1.0, tree=TREE)
    expected, _ = tree_attention(torch.nn.Module(), q, k, v, None, tree=TREE)
    assert torch.allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("name", ("softcap", "s_aux"))
def test_what_is_not_supported_is_refused(name):
    q, k, v = random_qkv(TREE.length)
    tree_attention(torch.nn.Module(), q, k, v, None, tree=TREE, **{name: None})
    with pytest.raises(ValueError, match=f"{name}=30.0 is not supported"):
        tree_attention(torch.nn.Module(), q, k, v, None, tree=TREE, **{name: 30.0})


def test_a_tree_on_a_filled_cache_is_refused():
    q, k, v = random_qkv(12)
    with pytest.raises(ValueError, match="keys: 12, positions of the tree: 9; a tree needs an empty cache"):
        tree_attention(torch.nn.Module(), q[:, :, :9], k, v, None, tree=TREE)


@torch.no_grad()
def test_autocast_takes_rotated_queries_and_keys_in_full_precision():
    q, k, v = random_qkv(TREE.length)
    expected, _ = tree_attention(torch.nn.Module(), q, k, v, None, tree=TREE)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = tree_attention(torch.nn.Module(), q, k, v.bfloat16(), None, tree=TREE)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), expected, atol=0.05)
