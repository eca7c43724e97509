"""Module of `backbones.qwen`."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from omniform.backbones.decoder_module import DecoderModule
from omniform.backbones.qwen import Qwen


class QwenModule(DecoderModule):
    """transformers' Qwen2, which computes the same, with the three projections of each layer in one (`c_attn`)."""

    def __init__(self, spec: Qwen) -> None:
        super().__init__(spec)
        for layer in self.lm.base_model.layers:
            attention = layer.self_attn
            attention.c_attn = nn.Linear(spec.dim, 3 * spec.heads * spec.per_head)
            nn.init.normal_(attention.c_attn.weight, std=spec.init_std or self.lm.config.initializer_range)
            nn.init.zeros_(attention.c_attn.bias)
            for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
                setattr(attention, name, Third(attention.c_attn, i))


class Third(nn.Module):
    """One of the three parts of a linear layer's output; the weights stay the layer's."""

    def __init__(self, whole: nn.Linear, part: int) -> None:
        super().__init__()
        self.whole = (whole,)  # a tuple: its weights are not counted again
        self.part = part

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape width"]:
        whole = self.whole[0]
        width = whole.out_features // 3
        rows = slice(self.part * width, (self.part + 1) * width)
        return F.linear(x, whole.weight[rows], whole.bias[rows])
