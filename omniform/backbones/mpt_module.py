"""Module of `backbones.mpt`.

transformers' MPT computes its attention itself and indexes the ALiBi bias by place in the sequence, which is wrong
for packed documents and for padded rows. Its weights are kept, its attention is replaced.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.models.mpt.modeling_mpt import MptAttention, MptBlock

from omniform.attention import Slopes, tree_attention
from omniform.backbones.decoder_module import CACHE, DecoderModule
from omniform.backbones.mpt import Mpt
from omniform.batch import Fused, Notes, Tree


class TreeMptAttention(MptAttention):
    """The same weights, attending over a tree or under a mask; keys lose by their distance along the document."""

    slopes: Slopes
    q_ln: nn.Module
    k_ln: nn.Module

    def forward(
        self,
        hidden_states: Float[Tensor, "rows queries dim"],
        position_bias: Any,  # the tree, or None
        *_: Any,
        attention_mask: Tensor | None = None,
        **given: Any,
    ) -> tuple[Float[Tensor, "rows queries dim"], None]:
        query, key, value = self.Wqkv(hidden_states).chunk(3, dim=2)
        query, key = self.q_ln(query), self.k_ln(key)
        q, k, v = (x.unflatten(2, (self.n_heads, self.head_dim)).transpose(1, 2) for x in (query, key, value))
        if (cache := given.get(CACHE)) is not None:
            k, v = cache.update(k, v, self.layer_idx)
        dropout = float(self.attn_dropout_p) if self.training else 0.0
        out, _weights = tree_attention(
            self, q, k, v, attention_mask, self.softmax_scale, dropout, tree=position_bias, slopes=self.slopes,
            beside=given.get("beside"),
        )  # fmt: skip
        return self.out_proj(out.flatten(2)), None


class TreeMptBlock(MptBlock):
    """The same block, handing what fusions know of the call on to its attention."""

    def forward(
        self,
        hidden_states: Float[Tensor, "rows queries dim"],
        position_bias: Any,  # the tree, or None
        attention_mask: Any,  # of a step, or None
        layer_past: Any = None,
        *_: Any,
        fused: Fused | None = None,
        **__: Any,
    ) -> Float[Tensor, "rows queries dim"]:
        normed, given = self.norm_1(hidden_states), {"fused": fused, CACHE: layer_past}
        attended, _weights = self.attn(normed, position_bias, attention_mask=attention_mask, **given)
        x = self.resid_attn_dropout(attended) + hidden_states
        return self.ffn(self.norm_2(x), x)


class MptModule(DecoderModule):
    """Runs the blocks of transformers' MPT one by one; the tree travels in place of its position bias."""

    def __init__(self, spec: Mpt) -> None:
        super().__init__(spec)
        for block in self.lm.transformer.blocks:
            block.__class__ = TreeMptBlock
            block.attn.__class__ = TreeMptAttention
            block.attn.slopes = spec.slopes
            block.attn.q_ln = _norm(spec)
            block.attn.k_ln = _norm(spec)
            if spec.mlp_dim != 4 * spec.dim:  # transformers ignores expansion_ratio
                block.ffn.up_proj = nn.Linear(spec.dim, spec.mlp_dim, bias=False)
                block.ffn.down_proj = nn.Linear(spec.mlp_dim, spec.dim, bias=False)

    def forward(
        self,
        embeds: Float[Tensor, "n dim"],
        positions: Int[Tensor, "*axes n"],
        tree: Tree,
        cache: DynamicCache | None = None,
        fused: Fused | None = None,
        notes: Notes | None = None,  # no block has anything to note
    ) -> Float[Tensor, "n dim"]:
        return self._run(embeds[None], tree, None, cache, fused)[0]

    def step(
        self,
        embeds: Float[Tensor, "rows new dim"],
        positions: Int[Tensor, "*axes rows new"],
        mask: Float[Tensor, "rows 1 new keys"] | None,
        cache: DynamicCache,
        fused: Fused | None = None,
    ) -> Float[Tensor, "rows new dim"]:
        return self._run(embeds, None, mask, cache, fused)

    def _run(
        self, x: Tensor, tree: Tree | None, mask: Tensor | None, cache: DynamicCache | None, fused: Fused | None
    ) -> Tensor:
        for block in self.lm.transformer.blocks:
            x = block(x, tree, mask, layer_past=cache, fused=fused)
        return self.lm.transformer.norm_f(x)


def _norm(spec: Mpt) -> nn.Module:
    return nn.LayerNorm(spec.dim, eps=spec.norm_eps, bias=False) if spec.qk_norm else nn.Identity()
