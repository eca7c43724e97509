"""Module of `backbones.mamba`.

transformers' Mamba carries its state over whatever stands before in the sequence, padding and other documents too, and
scans position by position. Its weights are kept; convolution and scan follow the tree.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba.modeling_mamba import MambaBlock, MambaMixer

from omniform.backbones.mamba import Mamba
from omniform.batch import Tree
from omniform.scan import LayerState, States, advance, before, before_from, read, selective_scan


class TreeMixer(MambaMixer):
    """The same weights, over a tree or one position of every row."""

    def forward(
        self, x: Float[Tensor, "n dim"], tree: Tree | None, kept: LayerState | None = None
    ) -> tuple[Float[Tensor, "n dim"], LayerState]:
        """Rows after the mixer, and what it remembers of the tree's leaves.

        Args:
            tree: None for one position of each row of `kept`.
            kept: what the documents of the tree go on from.
        """
        inner, gate = self.in_proj(x).chunk(2, -1)
        if tree is not None:
            y, state = self._read(inner, tree, kept)
        elif kept is not None:
            y, state = self._step(inner, kept)
        else:
            raise ValueError("a position without a tree needs what is remembered of those before it")
        return self.out_proj((y * F.silu(gate.float())).to(x.dtype)), state

    def _read(self, inner: Tensor, tree: Tree, kept: LayerState | None) -> tuple[Tensor, LayerState]:
        seen = self.conv_kernel_size
        if kept is None:
            rows = F.pad(inner, (0, 0, 0, 1))  # a last row for what stands before a document
            back = before(tree, seen, inner.device)
        else:
            rows = torch.cat([inner, kept.inputs.flatten(0, 1)])
            back = before_from(tree, seen, inner.device)
        x = self._convolved(rows[at] for at in back)
        steps, enter, leave = self._selected(x)
        start = None if kept is None else kept.state
        y, state = selective_scan(tree, steps, self._decay(), enter, leave, x.float(), start)
        inputs = rows[back[: seen - 1, tree.lasts].flip(0).T]
        return y + x.float() * self.D.float(), LayerState(inputs, state)

    def _step(self, inner: Tensor, layer: LayerState) -> tuple[Tensor, LayerState]:
        seen = torch.cat([layer.inputs, inner[:, None]], 1)
        x = self._convolved(seen.flip(1).unbind(1))
        steps, enter, leave = self._selected(x)
        state = advance(layer.state, steps, self._decay(), enter, steps * x.float())
        return read(state, leave) + x.float() * self.D.float(), LayerState(seen[:, 1:], state)

    def _convolved(self, back: Any) -> Tensor:
        """Convolution of rows, given from the own one backwards."""
        weights = self.conv1d.weight[:, 0].flip(-1).T
        total: Any = self.conv1d.bias
        for row, weight in zip(back, weights, strict=True):
            total = total + row * weight
        return F.silu(total)

    def _selected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step sizes, what enters the state and what leaves it, in float32."""
        rank, state = self.time_step_rank, self.ssm_state_size
        steps, enter, leave = self.x_proj(x).split([rank, state, state], -1)
        return F.softplus(self.dt_proj(steps).float()), enter.float(), leave.float()

    def _decay(self) -> Tensor:
        return -torch.exp(self.A_log.float())


class TreeBlock(MambaBlock):
    """The same block, handing tree and state on to its mixer."""

    mixer: Any

    def forward(self, x: Tensor, tree: Tree | None, kept: LayerState | None = None) -> tuple[Tensor, LayerState]:
        mixed, state = self.mixer(self.norm(x.to(self.norm.weight.dtype)), tree, kept)
        return x.float() + mixed, state


class MambaModule(nn.Module):
    """A language model whose embedding, trunk and head are called one by one; `lm` is transformers' model."""

    def __init__(self, spec: Mamba) -> None:
        super().__init__()
        self.lm: Any = MambaForCausalLM(MambaConfig(**spec.config()))
        for block in self.lm.backbone.layers:
            block.__class__, block.mixer.__class__ = TreeBlock, TreeMixer
        self.spec = spec

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        return self.lm.get_input_embeddings()(ids)

    def forward(
        self,
        embeds: Float[Tensor, "n dim"],
        positions: Int[Tensor, "*axes n"],
        tree: Tree,
        cache: States | None = None,
    ) -> Float[Tensor, "n dim"]:
        """Last hidden states (after the final norm) of one packed sequence; a state knows no position ids.

        Args:
            cache: without states; takes those of the tree's leaves.
        """
        x, layers = embeds, []
        for block in self.lm.backbone.layers:
            x, state = block(x, tree)
            layers += [] if cache is None else [state]
        if cache is not None:
            cache.take(layers, (tree.depth[tree.lasts] + 1).tolist())
        return self._normed(x)

    def last_mlp_at(self, at: Int[Tensor, " wanted"]) -> AbstractContextManager[None]:
        """As `DecoderModule.last_mlp_at`; nothing is saved here."""
        return nullcontext()

    def step(
        self,
        embeds: Float[Tensor, "rows new dim"],
        positions: Int[Tensor, "rows new"],
        mask: None,
        cache: States,
    ) -> Float[Tensor, "rows new dim"]:
        """Hidden states of new positions, whose states replace those in the cache.

        Args:
            mask: there is nothing to mask; every row is real.
        """
        (rows, new), layers = embeds.shape[:2], []
        tree = Tree.of([new] * rows) if new > 1 else None
        x = embeds.flatten(0, 1)
        for block, kept in zip(self.lm.backbone.layers, cache.layers, strict=True):
            x, state = block(x, tree, kept)
            layers.append(state)
        cache.take(layers, [length + new for length in cache.lengths])
        return self._normed(x).unflatten(0, (rows, new))

    def _normed(self, x: Tensor) -> Tensor:
        norm = self.lm.backbone.norm_f
        return norm(x.to(norm.weight.dtype))

    def logits(self, hidden: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape vocab"]:
        return self.lm.get_output_embeddings()(hidden)

    def layer_prefix(self) -> str:
        """Prefix before a layer's number in parameter names."""
        return "lm." + self.spec.layer_prefix

    def idle(self) -> tuple[str, ...]:
        return ()
