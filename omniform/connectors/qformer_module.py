"""Module of `connectors.qformer`; parameter names are those of the releases (BERT's)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from omniform.batch import Features
from omniform.connectors.qformer import QFormer

STD = 0.02


class QFormerModule(nn.Module):
    """Shapes: (views, cells, in_dim) -> (views, positions, out_dim)."""

    def __init__(self, spec: QFormer, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim) if spec.normed else nn.Identity()
        self.query_tokens = nn.Parameter(torch.randn(1, spec.positions, spec.width) * STD)
        self.bert = Bert(spec, in_dim)
        self.proj = nn.Linear(spec.width, out_dim)
        self.spec = spec
        self.apply(_init)

    def forward(self, features: Features) -> Features:
        return Features(self.proj(self.read(self.norm(features.values))), self.spec.cells(features.grid))

    def read(
        self,
        features: Float[Tensor, "views cells in_dim"],
        words: Int[Tensor, "views words"] | None = None,
        seen: Bool[Tensor, "views asking rows"] | None = None,
    ) -> Float[Tensor, "views rows width"]:
        """Last hidden states of the queries, and of the words after them.

        Args:
            features: normed.
            seen: which rows (queries, then words) each row may attend to.
        """
        return self.bert(self.query_tokens.expand(len(features), -1, -1), words, features, seen)


class Bert(nn.Module):
    """Post-norm layers over queries, words, or both."""

    def __init__(self, spec: QFormer, in_dim: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"LayerNorm": nn.LayerNorm(spec.width, eps=spec.norm_eps)})
        if spec.words:
            self.embeddings["word_embeddings"] = nn.Embedding(spec.words, spec.width)
            self.embeddings["position_embeddings"] = nn.Embedding(spec.longest, spec.width)
        layers = nn.ModuleList(Layer(spec, in_dim if spec.crosses(i) else None) for i in range(spec.layers))
        self.encoder: Any = nn.ModuleDict({"layer": layers})
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self,
        queries: Float[Tensor, "views queries width"] | None,
        words: Int[Tensor, "views words"] | None = None,
        features: Float[Tensor, "views cells in_dim"] | None = None,
        seen: Bool[Tensor, "views asking rows"] | None = None,
    ) -> Float[Tensor, "views rows width"]:
        """Last hidden states, queries first."""
        rows = [x for x in (queries, None if words is None else self._embed(words)) if x is not None]
        x = self.dropout(self.embeddings["LayerNorm"](torch.cat(rows, dim=1)))
        count = 0 if queries is None else queries.shape[1]
        for layer in self.encoder["layer"]:
            x = layer(x, count, features, seen)
        return x

    def _embed(self, words: Tensor) -> Tensor:
        places = torch.arange(words.shape[1], device=words.device)
        return self.embeddings["word_embeddings"](words) + self.embeddings["position_embeddings"](places)


class Layer(nn.Module):
    """Attention among all rows, of the queries to the features, and an MLP each for queries and words."""

    def __init__(self, spec: QFormer, cross_dim: int | None) -> None:
        super().__init__()
        self.attention = Attention(spec, spec.width)
        self.crossattention = None if cross_dim is None else Attention(spec, cross_dim)
        self.intermediate_query, self.output_query = _mlp(spec)
        if spec.words:
            self.intermediate, self.output = _mlp(spec)

    def forward(
        self,
        x: Float[Tensor, "views rows width"],
        queries: int,
        features: Float[Tensor, "views cells in_dim"] | None,
        seen: Bool[Tensor, "views asking rows"] | None,
    ) -> Float[Tensor, "views rows width"]:
        x = self.attention(x, x, seen)
        asked, words = x[:, :queries], x[:, queries:]
        if queries:
            if self.crossattention is not None and features is not None:
                asked = self.crossattention(asked, features)
            asked = self.output_query(F.gelu(self.intermediate_query["dense"](asked)), asked)
        if words.shape[1]:
            words = self.output(F.gelu(self.intermediate["dense"](words)), words)
        return torch.cat([asked, words], dim=1)


class Attention(nn.Module):
    """Multi-head attention, added to its input and normed."""

    def __init__(self, spec: QFormer, key_dim: int) -> None:
        super().__init__()
        width = spec.width
        dims = {"query": width, "key": key_dim, "value": key_dim}
        self.self = nn.ModuleDict({name: nn.Linear(dim, width) for name, dim in dims.items()})
        self.output = Residual(spec, width)
        self.heads, self.dropout = spec.heads, spec.dropout

    def forward(self, x: Tensor, source: Tensor, seen: Tensor | None = None) -> Tensor:
        projected = (self.self["query"](x), self.self["key"](source), self.self["value"](source))
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        mask = None if seen is None else seen[:, None]
        dropped = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropped)
        return self.output(y.transpose(1, 2).flatten(2), x)


class Residual(nn.Module):
    """A linear layer, added and normed."""

    def __init__(self, spec: QFormer, in_dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_dim, spec.width)
        self.LayerNorm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(y)) + x)


def _mlp(spec: QFormer) -> tuple[nn.ModuleDict, Residual]:
    return nn.ModuleDict({"dense": nn.Linear(spec.width, spec.mlp_dim)}), Residual(spec, spec.mlp_dim)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
