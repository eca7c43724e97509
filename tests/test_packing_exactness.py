"""A packed tree computes what every document computes alone, for every backbone."""

import pytest
import torch
import torch.nn.functional as F
from every_backbone import TINY_EVERY

from omniform.batch import Node, Tree

TREE = Tree(
    (
        Node(0, 13),
        Node(13, 30), Node(30, 35, 1), Node(35, 44, 1), Node(44, 46, 1),
        Node(46, 57), Node(57, 63, 5), Node(63, 67, 6), Node(67, 74, 6), Node(74, 79, 5),
        Node(79, 159),
    )
)  # fmt: skip
"""A document alone, three branches of one trunk, a trunk of three levels, and one longer than any tiny window."""
OPENING = Tree(
    (Node(0, 3), Node(3, 30, 0), Node(30, 35, 1), Node(35, 44, 1), Node(44, 60, 0), Node(60, 72, 0), Node(72, 79, 5))
)
"""A few words that a trunk with two branches, a document alone and a trunk with one branch open with."""
PLAIN = Tree.of([13, 17, 33, 80, 16])
APART = Tree((Node(0, 13), Node(13, 17, 0), Node(17, 50), Node(50, 130, 2), Node(130, 139), Node(139, 140, 4)))
"""Prompts that an encoder reads, each with its answer."""


def alone_tree(spec, path):
    """One document of a tree, given by its nodes."""
    lengths = [n.stop - n.start for n in path]
    if spec.start_id is None:
        return Tree.of([sum(lengths)])
    return Tree((Node(0, lengths[0]), Node(lengths[0], sum(lengths), 0)))


@pytest.fixture(params=TINY_EVERY)
def spec(request):
    return TINY_EVERY[request.param]


@pytest.fixture
def backbone(spec):
    torch.manual_seed(0)
    module = spec.build()
    for parameter in module.parameters():  # also zero biases and unit norms
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module


@pytest.fixture(params=(TREE, OPENING), ids=("trunks", "opening"))
def tree(request, spec):
    if spec.start_id is not None:
        return APART
    return request.param if spec.trees else PLAIN


def losses(backbone, embeds, positions, tree, targets, weights):
    logits = backbone.logits(backbone(embeds, positions, tree))
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def gradients(backbone, embeds, loss):
    backbone.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in backbone.named_parameters()}
    return {**found, "embeds": embeds.grad.clone()}


def test_loss_and_gradients_equal_one_document_at_a_time(backbone, tree):
    targets = torch.randint(0, backbone.spec.vocab, (tree.length,))
    ids = torch.randint(0, backbone.spec.vocab, (tree.length,))
    chains = [torch.cat([torch.arange(n.start, n.stop) for n in tree.path(leaf)]) for leaf in tree.leaves]
    trees = [alone_tree(backbone.spec, tree.path(leaf)) for leaf in tree.leaves]
    counts = torch.zeros(tree.length).index_add_(0, torch.cat(chains), torch.ones(sum(map(len, chains))))

    packed_embeds = backbone.embed(ids)
    packed_embeds.retain_grad()
    packed = losses(backbone, packed_embeds, tree.depth, tree, targets, counts)
    packed_gradients = gradients(backbone, packed_embeds, packed)

    embeds = backbone.embed(ids)
    embeds.retain_grad()
    alone = sum(
        losses(backbone, embeds[c], torch.arange(len(c)), own, targets[c], torch.ones(len(c)))
        for c, own in zip(chains, trees, strict=True)
    )
    alone_gradients = gradients(backbone, embeds, alone)

    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    largest = max(g.abs().max() for g in alone_gradients.values())
    for name, expected in alone_gradients.items():
        error = (packed_gradients[name] - expected).abs().max()
        # some gradients are zero but for rounding (a bias of all keys cancels in the softmax)
        assert error <= 1e-5 * max(expected.abs().max(), 0.01 * largest), f"{name}: {error}"


@torch.no_grad()
def test_a_changed_node_moves_nothing_but_itself_and_its_branches(backbone, tree):
    embeds = torch.randn(tree.length, backbone.spec.dim)
    before = backbone(embeds, tree.depth, tree)
    for number, node in enumerate(tree.nodes):
        changed = embeds.clone()
        changed[node.start : node.stop] = torch.randn(node.stop - node.start, backbone.spec.dim)
        moved = (backbone(changed, tree.depth, tree) - before).abs().amax(1)
        touched = tree.ancestors[:, number][tree.node_of]
        assert moved[~touched].sum() == 0.0
        assert moved[node.start : node.stop].min() > 0.0
