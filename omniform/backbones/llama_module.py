"""Module of `backbones.llama`."""

from __future__ import annotations

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from omniform.backbones.decoder_module import DecoderModule
from omniform.backbones.llama import Llama


class LlamaModule(DecoderModule):
    """LLaMA, whose queries and keys may come in neighbouring pairs.

    Scores do not depend on the order of a head's channels, so the channels are put in transformers' order (the first
    halves of all pairs, then the second) where they come out of their linear modules; the weights stay as released.
    """

    def __init__(self, spec: Llama) -> None:
        super().__init__(spec)
        if spec.neighbours:
            for layer in self.lm.model.layers:
                for project in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                    project.register_forward_hook(partial(_halves, spec.per_head))


def _halves(
    per_head: int, module: Any, given: Any, out: Float[Tensor, "*shape width"]
) -> Float[Tensor, "*shape width"]:
    return out.unflatten(-1, (-1, per_head // 2, 2)).transpose(-1, -2).flatten(-3)
