"""Ways to attend over a packed tree on a CPU: ours against padded blocks of spans and against one mask over everything.

Processor time of one thread, forward and backward of one layer, best of some repetitions.

    python -m benchmarks.attention
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.attention import tree_attention
from omniform.batch import Node, Tree

SLACK = 1.25
"""A padded block holds spans of at most this ratio of lengths."""


def tree(documents: int, trunk: int, branches: int, branch: int) -> Tree:
    """Documents of about `trunk` positions, each with branches of about `branch`; lengths vary by a third."""
    rng, nodes, at = random.Random(0), list[Node](), 0

    def add(length: int, parent: int) -> None:
        nonlocal at
        stop = at + rng.randint(length - length // 3, length + length // 3)
        nodes.append(Node(at, stop, parent))
        at = stop

    for _ in range(documents):
        root = len(nodes)
        add(trunk, -1)
        for _ in range(branches):
            add(branch, root)
    return Tree(tuple(nodes))


CASES = {
    "nano: 32 documents of 150": (tree(32, 150, 0, 0), 4, 4, 32),
    "nano: 16 x (80 + 5 x 20)": (tree(16, 80, 5, 20), 4, 4, 32),
    "nano: 8 x (80 + 20 x 20)": (tree(8, 80, 20, 20), 4, 4, 32),
    "nano: 60 x (30 + 4 x 6)": (tree(60, 30, 4, 6), 4, 4, 32),
    "135M: 12 documents of 300": (tree(12, 300, 0, 0), 9, 3, 64),
    "135M: 6 x (250 + 8 x 40)": (tree(6, 250, 8, 40), 9, 3, 64),
}
"""Name -> tree, query heads, key-value heads, width of a head."""


def ours(q: Tensor, k: Tensor, v: Tensor, tree: Tree) -> Tensor:
    return tree_attention(torch.nn.Module(), q, k, v, None, tree=tree)[0]


def padded(q: Tensor, k: Tensor, v: Tensor, tree: Tree) -> Tensor:
    """Spans of similar length gathered into one padded block, each under its own mask."""
    if "padded" not in tree.memo:
        buckets: list[list[tuple[int, int]]] = [[]]
        for a, b in sorted(tree.spans, key=lambda s: s[1] - s[0]):
            if buckets[-1] and b - a > SLACK * (buckets[-1][0][1] - buckets[-1][0][0]):
                buckets.append([])
            buckets[-1].append((a, b))
        flat = torch.cat([torch.arange(a, b) for bucket in buckets for a, b in bucket])
        tree.memo["padded"] = [block(tree, bucket) for bucket in buckets], flat.argsort()
    blocks, order = tree.memo["padded"]
    rows: list[Tensor] = []
    sides = [x[0].transpose(0, 1) for x in (q, k, v)]
    for index, mask, cells in blocks:
        q_block, k_block, v_block = (x[index].transpose(1, 2) for x in sides)
        out = F.scaled_dot_product_attention(q_block, k_block, v_block, mask, enable_gqa=q.shape[1] != k.shape[1])
        rows.append(out.transpose(1, 2).flatten(0, 1)[cells])
    return torch.cat(rows)[order][None]


def block(tree: Tree, spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the block's cells, its mask, and which of its cells are real."""
    longest = max(b - a for a, b in spans)
    index = torch.zeros(len(spans), longest, dtype=torch.long)
    seen = torch.eye(longest, dtype=torch.bool).repeat(len(spans), 1, 1)
    real = torch.zeros(len(spans), longest, dtype=torch.bool)
    for i, (a, b) in enumerate(spans):
        index[i, : b - a] = torch.arange(a, b)
        seen[i, : b - a, : b - a] = tree.mask(torch.arange(a, b))
        real[i, : b - a] = True
    mask = torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))
    return index, mask[:, None], real.flatten().nonzero()[:, 0]


def whole(q: Tensor, k: Tensor, v: Tensor, tree: Tree) -> Tensor:
    """One mask over the packed sequence."""
    if "whole" not in tree.memo:
        tree.memo["whole"] = torch.zeros(tree.length, tree.length).masked_fill_(~tree.mask(), float("-inf"))
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, tree.memo["whole"], enable_gqa=gqa).transpose(1, 2)


def milliseconds(attend: Callable[..., Tensor], qkv: tuple[Tensor, ...], tree: Tree, repetitions: int = 7) -> float:
    best = float("inf")
    for _ in range(repetitions):
        for x in qkv:
            x.grad = None
        start = time.process_time()
        attend(*qkv, tree).flatten(2).contiguous().sum().backward()
        best = min(best, time.process_time() - start)
    return 1000 * best


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':28}{'positions':>10}{'ours':>10}{'padded':>10}{'whole':>10}  ms")
    for name, (packed, heads, kv_heads, width) in CASES.items():
        torch.manual_seed(0)
        n = packed.length
        qkv = tuple(torch.randn(1, h, n, width, requires_grad=True) for h in (heads, kv_heads, kv_heads))
        times = [milliseconds(way, qkv, packed, 2 if way is whole else 7) for way in (ours, padded, whole)]
        print(f"{name:28}{n:>10}{''.join(f'{t:>10.1f}' for t in times)}")


if __name__ == "__main__":
    main()
