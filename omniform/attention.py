"""Attention over a packed tree, offered to every transformers model under one name.

transformers calls `tree_attention` in each layer with the keyword arguments of the model's forward call. With `tree`
given, queries, keys and values are one flat sequence. Without it (decoding with a cache) scaled-dot-product attention
runs under the mask given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface

from omniform.batch import Tree

NAME = "omniform_tree"
REFUSED = ("softcap", "s_aux")
"""Keyword arguments that would change the result and that no back end here knows."""

Slopes = tuple[float, ...]
"""ALiBi (arXiv:2108.12409): for each head, what a key loses for every position that it lies back."""


def tree_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads queries head_dim"],
    key: Float[Tensor, "rows kv_heads keys head_dim"],
    value: Float[Tensor, "rows kv_heads keys head_dim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Tree | None = None,
    sliding_window: int | None = None,
    slopes: Slopes | None = None,
    beside: Callable[[Tensor, float | None], Tensor] | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "rows queries heads head_dim"], None]:
    """Attention in the calling convention of `transformers.AttentionInterface`.

    Args:
        attention_mask: without a tree, (rows, 1, queries, keys): bool, or additive with 0 where a key is seen. Every
            query must see at least one key, padding queries too. None is causal, the last query seeing every key.
        sliding_window: only this many last positions of a document are seen, the own one included.
        beside: (queries, scaling) -> what is added to the output for what is seen besides the sequence, shaped as the
            queries. A fusion gives it by a hook on the attention.

    Returns:
        The output, and no attention weights.

    Raises:
        ValueError: an argument that would change the result is not supported, or the tree does not fit the keys.
    """
    _refuse(others)
    gqa = query.shape[1] != key.shape[1]
    options: dict[str, Any] = {"scale": scaling, "enable_gqa": gqa}
    if tree is None:
        mask = decoding_mask(attention_mask, query, key, sliding_window, slopes)
        causal = mask is None and query.shape[2] > 1
        out = F.scaled_dot_product_attention(query, key, value, mask, dropout, causal, **options)
    else:
        if key.shape[2] != tree.length:
            raise ValueError(f"keys: {key.shape[2]}, positions of the tree: {tree.length}; a tree needs an empty cache")
        if query.is_cuda and len(tree.nodes) > 1:
            out = _flex(query, key, value, tree, sliding_window, slopes, dropout, options)
        else:
            out = _spans(query, key, value, tree, sliding_window, slopes, dropout, options)
    if beside is not None:
        out = out + beside(query, scaling)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, tree_attention)


def _refuse(others: dict[str, Any]) -> None:
    for name in REFUSED:
        if others.get(name) is not None:
            raise ValueError(f"attention with {name}={others[name]!r} is not supported by {NAME!r}; it was not ignored")


# --- decoding: rows with a cache -----------------------------------------------------------------------------------


def decoding_mask(
    mask: Tensor | None, query: Tensor, key: Tensor, window: int | None, slopes: Slopes | None
) -> Tensor | None:
    """The mask of new queries over cached and new keys, with window and slopes in it; None where causal says it all.

    Distances are counted in seen keys, so that padding between them does not count.
    """
    queries, keys = query.shape[2], key.shape[2]
    plain = slopes is None and (window is None or keys <= window)
    if plain and mask is None and queries in (1, keys):
        return None
    if plain and mask is not None:
        return mask.to(query.dtype) if mask.is_floating_point() else mask
    seen = _seen(mask, queries, keys, query.device)
    order = seen.cumsum(-1)
    back = order[..., -1:] - order
    if window is not None:
        seen = seen & (back < window)
    return _additive(seen, back, slopes, query)


def _seen(mask: Tensor | None, queries: int, keys: int, device: torch.device) -> Bool[Tensor, "rows 1 queries keys"]:
    if mask is None:
        return torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask == 0 if mask.is_floating_point() else mask


def _additive(
    seen: Bool[Tensor, "*rows queries keys"],
    back: Int[Tensor, "*rows queries keys"] | None,
    slopes: Slopes | None,
    like: Tensor,
) -> Tensor:
    """0 or the slope's share where a key is seen, -inf elsewhere; `back` says how far keys lie back."""
    bias = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    if slopes is not None and back is not None:
        bias = -torch.tensor(slopes, device=like.device)[:, None, None] * back
    return bias.masked_fill(~seen, float("-inf")).to(like.dtype)


# --- a tree, span by span ------------------------------------------------------------------------------------------


WIDE = 8
"""What hangs on a root is attended to limb by limb where it is this many times as long as the root."""


class Limb(NamedTuple):
    """Positions [start, stop) that attend among themselves and to the whole of `root`, which is empty or precedes them.

    A limb is a span (a root with all that hangs on it), or a root alone, or what hangs on one of its branches.
    """

    start: int
    stop: int
    root: tuple[int, int] = (0, 0)

    @property
    def before(self) -> int:
        return self.root[1] - self.root[0]

    def of(self, x: Float[Tensor, "rows heads n dim"]) -> Float[Tensor, "rows heads limb dim"]:
        """The root's rows and its own."""
        own = x[:, :, self.start : self.stop]
        return torch.cat([x[:, :, slice(*self.root)], own], 2) if self.before else own


def limbs_of(tree: Tree) -> list[Limb]:
    """Limbs in order, which together are all positions."""
    limbs = []
    for start, stop in tree.spans:
        root = tree.nodes[int(tree.node_of[start])]
        if stop - root.stop <= WIDE * (root.stop - start):
            limbs.append(Limb(start, stop))
            continue
        number = tree.nodes.index(root)
        starts = [n.start for n in tree.nodes if n.parent == number]
        limbs += [Limb(start, root.stop), *(Limb(a, b, (start, root.stop)) for a, b in pairwise([*starts, stop]))]
    return limbs


@dataclass(frozen=True)
class Piece:
    """Rows of a limb and its root that attend together.

    Attributes:
        rows: first and last row (exclusive), counted from the root's start.
        keys: they see keys up to here.
        mask: additive (1, heads or 1, rows, keys); None is causal.
    """

    rows: tuple[int, int]
    keys: int
    mask: Float[Tensor, "1 heads rows keys"] | None


def _spans(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, window: int | None, slopes: Slopes | None, dropout: float,
    options: dict[str, Any],
) -> Tensor:  # fmt: skip
    """Attend within each limb: its trunk causally, what hangs on it under a mask.

    On a CPU faster than padded blocks of spans: nothing is padded, little is gathered, and causal calls do half the
    work (`benchmarks/attention.py`). A limb's trunk is read together with its root, so that it stays causal.
    """
    out = []
    for limb, pieces in limb_pieces(tree, window, slopes, query):
        q, k, v = (limb.of(x) for x in (query, key, value))
        rows = []
        for (first, last), keys, mask in ((p.rows, p.keys, p.mask) for p in pieces):
            seen = k[:, :, :keys], v[:, :, :keys]
            causal = mask is None
            rows.append(F.scaled_dot_product_attention(q[:, :, first:last], *seen, mask, dropout, causal, **options))
        rows[0] = rows[0][:, :, max(limb.before - pieces[0].rows[0], 0) :]
        out += rows
    return torch.cat(out, 2)


def limb_pieces(tree: Tree, window: int | None, slopes: Slopes | None, like: Tensor) -> list[tuple[Limb, list[Piece]]]:
    """The pieces of every limb, made once for all layers."""
    memo_key = ("pieces", window, slopes, like.device, like.dtype)
    if memo_key not in tree.memo:
        tree.memo[memo_key] = [(limb, _pieces(tree, limb, window, slopes, like)) for limb in limbs_of(tree)]
    return tree.memo[memo_key]


def _pieces(tree: Tree, limb: Limb, window: int | None, slopes: Slopes | None, like: Tensor) -> list[Piece]:
    at = torch.cat([torch.arange(*limb.root), torch.arange(limb.start, limb.stop)])
    first = tree.nodes[int(tree.node_of[limb.start])]
    trunk = limb.before + first.stop - limb.start
    causal = trunk if slopes is None and (window is None or trunk <= window) else limb.before
    pieces = [Piece((0, causal), causal, None)] if causal > limb.before else []
    if causal < len(at):
        seen, depth = tree.mask(at, window, causal).to(like.device), tree.depth[at].to(like.device)
        back = None if slopes is None else depth[causal:, None] - depth
        mask = _additive(seen, back, slopes, like).view(1, -1, *seen.shape)
        pieces.append(Piece((causal, len(at)), len(at), mask))
    return pieces


# --- a tree, in one fused kernel -----------------------------------------------------------------------------------


def _flex(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, window: int | None, slopes: Slopes | None, dropout: float,
    options: dict[str, Any],
) -> Tensor:  # fmt: skip
    if dropout:
        raise ValueError(f"attention dropout {dropout} is not supported on a GPU; set the backbone's to 0")
    block_mask, score = flex_arguments(tree, query.device, window, slopes)
    # autocast, which casts for the other kernels, leaves rotated queries and keys in full precision
    query, key = query.to(value.dtype), key.to(value.dtype)
    return compiled_flex()(query, key, value, score_mod=score, block_mask=block_mask, **options)


def flex_arguments(tree: Tree, device: torch.device, window: int | None, slopes: Slopes | None = None) -> Any:
    """Mask and score function of a tree for `flex_attention`, which skips blocks where nothing is seen."""
    memo_key = ("flex", device, window, slopes)
    if memo_key not in tree.memo:
        depth = tree.depth.to(device)
        sees, score = _sees(tree, depth, window), _score(depth, slopes)
        block_mask = create_block_mask(sees, None, None, tree.length, tree.length, device=str(device))
        tree.memo[memo_key] = block_mask, score
    return tree.memo[memo_key]


# lambdas, as flex_attention counts the arguments of the code object, which decorators hide
def _sees(tree: Tree, depth: Tensor, window: int | None) -> Callable[..., Tensor]:
    node, ancestors = tree.node_of.to(depth.device), tree.ancestors.to(depth.device)
    if window is None:
        return lambda _b, _h, q, k: ancestors[node[q], node[k]] & (k <= q)
    return lambda _b, _h, q, k: ancestors[node[q], node[k]] & (k <= q) & (depth[q] - depth[k] < window)


def _score(depth: Tensor, slopes: Slopes | None) -> Callable[..., Tensor] | None:
    if slopes is None:
        return None
    per_head = torch.tensor(slopes, device=depth.device)
    return lambda score, _b, h, q, k: score - per_head[h] * (depth[q] - depth[k])


@cache
def compiled_flex() -> Any:
    """`flex_attention`, compiled once for the whole run."""
    return torch.compile(flex_attention)
