"""Attention over a packed tree, offered to every transformers model under one name.

transformers calls `tree_attention` in each layer with the keyword arguments of the model's forward call. With `tree`
given, queries, keys and values are one flat sequence. Without it (decoding with a cache) plain scaled-dot-product
attention runs under the mask given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface

from omniform.batch import Tree

NAME = "omniform_tree"
SLACK = 1.25
"""Spans attend together, padded to the longest, while the longest is at most this much longer than the shortest."""


@dataclass(frozen=True)
class Group:
    """Spans of similar length as one padded block.

    Attributes:
        index: flat position of each cell (0 where padded).
        mask: 0 where the row may attend to the column, -inf elsewhere; padded rows attend to themselves.
        cells: cells of the flattened block that are real, in flat order.
    """

    index: Int[Tensor, "spans length"]
    mask: Float[Tensor, "spans 1 length length"]
    cells: Int[Tensor, " real"]


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Tree | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in the calling convention of `transformers.AttentionInterface`.

    Args:
        query: (batch, heads, queries, head_dim); key and value may have fewer heads (grouped queries).
        attention_mask: (batch, 1, queries, keys) additive or bool, when there is no tree.

    Returns:
        (batch, queries, heads, head_dim), and no attention weights.
    """
    gqa = query.shape[1] != key.shape[1]
    if tree is None:
        causal = attention_mask is None and query.shape[2] > 1 and query.shape[2] == key.shape[2]
        out = F.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout, is_causal=causal, scale=scaling, enable_gqa=gqa
        )
    elif len(tree.nodes) == 1 and (sliding_window is None or tree.length <= sliding_window):
        out = F.scaled_dot_product_attention(
            query, key, value, None, dropout, is_causal=True, scale=scaling, enable_gqa=gqa
        )
    elif query.is_cuda:
        block = block_mask(tree, query.device, sliding_window)
        out = _compiled_flex()(query, key, value, block_mask=block, scale=scaling, enable_gqa=gqa)
    else:
        return _grouped(query, key, value, tree, sliding_window, scaling, dropout, gqa), None
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, tree_attention)


def _grouped(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, window: int | None, scale: float | None, dropout: float,
    gqa: bool,
) -> Tensor:  # fmt: skip
    """Gather the spans of a flat sequence into few padded blocks, attend in each, and put the rows back."""
    rows = []
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]
    blocks, order = groups(tree, query.device, query.dtype, window)
    for block in blocks:
        q, k, v = (x[block.index].transpose(1, 2) for x in flat)
        out = F.scaled_dot_product_attention(q, k, v, block.mask, dropout, scale=scale, enable_gqa=gqa)
        rows.append(out.transpose(1, 2).flatten(0, 1)[block.cells])
    return torch.cat(rows)[order][None]


def groups(tree: Tree, device: torch.device, dtype: torch.dtype, window: int | None) -> tuple[list[Group], Tensor]:
    """Padded blocks of a tree's spans, and the order that puts their rows back; computed once for all layers."""
    memo = tree.memo
    key = ("groups", device, dtype, window)
    if key not in memo:
        spans = sorted(tree.spans, key=lambda s: s[1] - s[0])
        buckets: list[list[tuple[int, int]]] = [[]]
        for start, stop in spans:
            if buckets[-1] and stop - start > SLACK * (buckets[-1][0][1] - buckets[-1][0][0]):
                buckets.append([])
            buckets[-1].append((start, stop))
        flat = torch.cat([torch.arange(a, b) for bucket in buckets for a, b in bucket])
        memo[key] = [_group(tree, b, device, dtype, window) for b in buckets], flat.argsort().to(device)
    return memo[key]


def _group(
    tree: Tree, spans: list[tuple[int, int]], device: torch.device, dtype: torch.dtype, window: int | None
) -> Group:
    longest = max(b - a for a, b in spans)
    index = torch.zeros(len(spans), longest, dtype=torch.long)
    seen = torch.eye(longest, dtype=torch.bool).repeat(len(spans), 1, 1)
    real = torch.zeros(len(spans), longest, dtype=torch.bool)
    for i, (a, b) in enumerate(spans):
        index[i, : b - a] = torch.arange(a, b)
        seen[i, : b - a, : b - a] = tree.mask(a, b, window)
        real[i, : b - a] = True
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
    return Group(index.to(device), mask[:, None].to(device), real.flatten().nonzero()[:, 0].to(device))


def block_mask(tree: Tree, device: torch.device, window: int | None = None) -> Any:
    """The same mask for `flex_attention`, which skips blocks where nothing is seen."""
    key = ("flex", device, window)
    if key not in tree.memo:
        node, depth, ancestors = (t.to(device) for t in (tree.node_of, tree.depth, tree.ancestors))

        def sees(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            near = ancestors[node[q], node[k]] & (k <= q)
            return near if window is None else near & (depth[q] - depth[k] < window)

        tree.memo[key] = create_block_mask(sees, None, None, tree.length, tree.length, device=str(device))
    return tree.memo[key]


def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)
