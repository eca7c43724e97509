"""Module of `backbones.t5`: transformers' T5, whose layers attend within the documents of one packed sequence.

In the tree a root is a prompt, which the encoder reads; a child of it is the decoder's sequence: start token, answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.cache_utils import DynamicCache
from transformers.models.t5.modeling_t5 import T5Attention

from omniform.backbones.t5 import T5
from omniform.batch import Node, Tree


@dataclass(frozen=True)
class Piece:
    """Rows [first, last) attend to keys [first, last) under an additive bias; None where all are equal."""

    rows: tuple[int, int]
    keys: tuple[int, int]
    bias: Float[Tensor, "#blocks #heads rows keys"] | None


@dataclass(frozen=True)
class Reach:
    """Who attends to whom in one kind of attention: pieces whose rows follow each other, from the first to the last.

    Attributes:
        swap: gives other keys and values for those of a layer (number, keys, values); None attends to these.
    """

    pieces: Sequence[Piece]
    swap: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


class ReachingAttention(T5Attention):
    """The same projections; `position_bias` is a `Reach`, which transformers' layers hand on as it is."""

    def forward(
        self,
        hidden_states: Float[Tensor, "blocks rows dim"],
        mask: None = None,
        key_value_states: Float[Tensor, "blocks keys dim"] | None = None,
        position_bias: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Any, None]:
        read = hidden_states if key_value_states is None else key_value_states
        query, key, value = self._heads(self.q(hidden_states)), self._heads(self.k(read)), self._heads(self.v(read))
        if position_bias.swap is not None:
            key, value = position_bias.swap(self.layer_idx, key, value)
        dropout = self.dropout if self.training else 0.0
        out = []
        for (a, b), (c, d), bias in ((p.rows, p.keys, p.bias) for p in position_bias.pieces):
            cast = None if bias is None else bias.to(query.dtype)
            out.append(
                F.scaled_dot_product_attention(
                    query[:, :, a:b], key[:, :, c:d], value[:, :, c:d], cast, dropout, scale=self.scaling
                )
            )
        return self.o(torch.cat(out, 2).transpose(1, 2).flatten(2)), position_bias, None

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class UntiedT5(T5ForConditionalGeneration):
    """T5 1.1: the output head is a matrix of its own, which transformers 5 would tie to the embedding."""

    _tied_weights_keys = {  # noqa: RUF012 - as transformers declares it
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }


class T5Module(nn.Module):
    """An encoder-decoder under the contract of every backbone; `lm.state_dict()` is the plain language model.

    The cache holds one column for each position in the order of the tree: for a prompt's what the decoder reads
    across, for an answer's what it reads of itself. One more layer of it holds each column's position, and whether
    it is a prompt's.
    """

    def __init__(self, spec: T5) -> None:
        super().__init__()
        self.lm: Any = UntiedT5(T5Config(**spec.config()))
        for module in self.lm.modules():
            if isinstance(module, T5Attention):
                module.__class__ = ReachingAttention
        self.spec = spec

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        return self.lm.shared(ids)

    def last_mlp_at(self, at: Int[Tensor, " wanted"]) -> AbstractContextManager[None]:
        """As `DecoderModule.last_mlp_at`; nothing is saved here."""
        return nullcontext()

    def forward(
        self,
        embeds: Float[Tensor, "n dim"],
        positions: Int[Tensor, " n"],
        tree: Tree,
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "n dim"]:
        """Last hidden states of one packed sequence: the encoder's at prompts, the decoder's at answers.

        Raises:
            ValueError: the tree has more than prompts and, below each, answers.
        """
        deep = next((i for i, n in enumerate(tree.nodes) if n.parent >= 0 and tree.nodes[n.parent].parent >= 0), None)
        if deep is not None:
            raise ValueError(f"node {deep} continues an answer; an encoder-decoder has prompts, and answers below them")
        prompts, answers = Part.of(tree, answers=False), Part.of(tree, answers=True)
        own = self._longest_bias(self.lm.encoder, prompts.longest)
        encoded = self._stack(self.lm.encoder, embeds[None, prompts.at], Reach(prompts.within(own)))
        if not answers.nodes:
            return _joined(embeds, prompts, encoded, answers, encoded[:, :0])
        kept: dict[int, list[tuple[Tensor, Tensor]]] = {}
        keep = None if cache is None else _keeping(kept)
        own = self._longest_bias(self.lm.decoder, answers.longest)
        decoded = self._stack(
            self.lm.decoder,
            embeds[None, answers.at],
            Reach(answers.within(own), keep),
            Reach(answers.across(tree, prompts), keep),
            encoded,
        )
        if cache is not None:
            _write(cache, kept, prompts.at, answers.at, positions)
        return _joined(embeds, prompts, encoded, answers, decoded)

    def step(
        self,
        embeds: Float[Tensor, "rows new dim"],
        positions: Int[Tensor, "rows new"],
        mask: Float[Tensor, "rows 1 new keys"] | None,
        cache: DynamicCache,
    ) -> Float[Tensor, "rows new dim"]:
        """Hidden states of new positions of answers on top of a cache (`DecoderModule.step`)."""
        new = positions[:, None, :, None]
        places, prompt = (x[:, :, :, 0] for x in cache.update(new, torch.zeros_like(new).bool(), self.spec.layers))
        back = positions[:, None, :, None] - places[:, :, None, :]
        seen = back >= 0 if mask is None else mask == 0
        bias = self._bias(self.lm.decoder, back[:, 0])
        rows, keys = (0, positions.shape[1]), (0, places.shape[2])
        own = Piece(rows, keys, bias.masked_fill(~(seen & ~prompt[:, :, None, :]), float("-inf")))
        across = Piece(rows, keys, _additive(seen & prompt[:, :, None, :], bias))
        held = Reach([across], lambda layer, *_: (cache.layers[layer].keys, cache.layers[layer].values))
        grown = Reach([own], lambda layer, key, value: cache.update(key, value, layer))
        return self._stack(self.lm.decoder, embeds, grown, held, embeds[:, :0])

    def logits(self, hidden: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape vocab"]:
        return self.lm.lm_head(hidden)

    def layer_prefix(self) -> str:
        """Prefix before a layer's number in parameter names."""
        return "lm.encoder.block."

    def idle(self) -> tuple[str, ...]:
        return ()

    def _bias(self, stack: Any, back: Int[Tensor, "*shape rows keys"]) -> Float[Tensor, "*shape heads rows keys"]:
        """Learned bias of keys that lie `back` positions before their row."""
        attention = stack.block[0].layer[0].SelfAttention
        bucket = attention._relative_position_bucket(-back, not stack.is_decoder, self.spec.buckets, self.spec.farthest)
        return attention.relative_attention_bias(bucket).movedim(-1, -3)

    def _longest_bias(self, stack: Any, longest: int) -> Float[Tensor, "heads rows keys"]:
        """Bias of a document of `longest` positions; of a shorter one it is the first rows and columns."""
        place = torch.arange(longest, device=stack.final_layer_norm.weight.device)
        back = place[:, None] - place[None, :]
        bias = self._bias(stack, back)
        return bias.masked_fill(back < 0, float("-inf")) if stack.is_decoder else bias

    def _stack(self, stack: Any, x: Tensor, own: Reach, across: Reach | None = None, encoded: Any = None) -> Tensor:
        x = stack.dropout(x)
        for block in stack.block:
            x = block(x, None, own, encoded, None, across)[0]
        return stack.dropout(stack.final_layer_norm(x))


@dataclass(frozen=True)
class Part:
    """The prompts, or the answers, of a tree, and where they stand in its sequence."""

    nodes: tuple[Node, ...]
    at: Int[Tensor, " n"]

    @staticmethod
    def of(tree: Tree, *, answers: bool) -> Part:
        nodes = tuple(n for n in tree.nodes if (n.parent >= 0) == answers)
        return Part(nodes, torch.cat([torch.arange(0), *(torch.arange(n.start, n.stop) for n in nodes)]))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Where each node stands among the nodes of its kind."""
        ends = torch.tensor([0, *(n.stop - n.start for n in self.nodes)]).cumsum(0).tolist()
        return list(pairwise(ends))

    @property
    def longest(self) -> int:
        return max((n.stop - n.start for n in self.nodes), default=0)

    def within(self, bias: Float[Tensor, "heads rows keys"]) -> list[Piece]:
        """Every node attends to itself."""
        return [Piece((a, b), (a, b), bias[None, :, : b - a, : b - a]) for a, b in self.ranges]

    def across(self, tree: Tree, prompts: Part) -> list[Piece]:
        """Every answer attends to its prompt."""
        where = dict(zip(prompts.nodes, prompts.ranges, strict=True))
        return [Piece(r, where[tree.nodes[n.parent]], None) for n, r in zip(self.nodes, self.ranges, strict=True)]


def _joined(embeds: Tensor, prompts: Part, encoded: Tensor, answers: Part, decoded: Tensor) -> Float[Tensor, "n dim"]:
    """Both parts in the order of the sequence."""
    whole = encoded.new_empty(embeds.shape)
    at = prompts.at.to(whole.device), answers.at.to(whole.device)
    return whole.index_copy(0, at[0], encoded[0]).index_copy(0, at[1], decoded[0])


def _keeping(kept: dict[int, list[tuple[Tensor, Tensor]]]) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Hands keys and values on, and puts them by: of each layer first the decoder's own, then those across."""

    def keep(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        kept.setdefault(layer, []).append((key, value))
        return key, value

    return keep


def _write(
    cache: DynamicCache, kept: dict[int, list[tuple[Tensor, Tensor]]], prompts: Tensor, answers: Tensor, places: Tensor
) -> None:
    order = torch.cat([answers, prompts]).argsort().to(places.device)
    for layer, (own, across) in kept.items():
        keys, values = (torch.cat(pair, 2)[:, :, order] for pair in zip(own, across, strict=True))
        cache.update(keys, values, layer)
    prompt = torch.zeros_like(places, dtype=torch.bool)
    prompt[prompts.to(places.device)] = True
    cache.update(places[None, None, :, None], prompt[None, None, :, None], len(kept))


def _additive(seen: Bool[Tensor, "*shape"], like: Tensor) -> Float[Tensor, "*shape"]:
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, float("-inf"))
