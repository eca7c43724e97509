"""Module of `backbones.stablelm`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.stablelm.modeling_stablelm import StableLmDecoderLayer

from omniform.backbones.decoder_module import DecoderModule
from omniform.backbones.stablelm import StableLm


class TreeStableLmLayer(StableLmDecoderLayer):
    """The same layer, handing keyword arguments on to its attention; transformers' own (5.17 to 5.23) does not."""

    post_attention_layernorm: Any  # optional there, for parallel blocks

    def forward(self, hidden_states: Tensor, *_: Any, **arguments: Any) -> Tensor:
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **arguments)
        hidden_states = hidden_states + attended
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


class StableLmModule(DecoderModule):
    """StableLM whose layers know the tree; no state is kept between calls, so checkpointed layers may run again."""

    def __init__(self, spec: StableLm) -> None:
        super().__init__(spec)
        for layer in self.lm.base_model.layers:
            layer.__class__ = TreeStableLmLayer
