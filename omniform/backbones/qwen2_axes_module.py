"""Module of `backbones.qwen2_axes`."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from omniform.backbones.decoder import Decoder
from omniform.backbones.decoder_module import DecoderModule
from omniform.backbones.qwen2_axes import SECTIONS, Qwen2Axes


class Qwen2AxesModule(DecoderModule):
    """Turns the pairs of each section by their own axis; position ids of one axis stand for all."""

    def __init__(self, spec: Qwen2Axes) -> None:
        super().__init__(spec)
        self.lm.model.rotary_emb = AxesRotary(self.lm.model.rotary_emb, spec.sections)

    @staticmethod
    def arguments(spec: Decoder) -> dict[str, Any]:
        said = spec.config()
        # transformers' plain family has no sections, and warns of them
        return {**said, "rope_parameters": {k: v for k, v in said["rope_parameters"].items() if k != SECTIONS}}


class AxesRotary(nn.Module):
    """The family's rotary frequencies, with an axis of the position ids for each channel pair."""

    def __init__(self, plain: nn.Module, sections: tuple[int, ...]) -> None:
        super().__init__()
        self.plain: Any = plain
        axis = [number for number, pairs in enumerate(sections) for _ in range(pairs)]
        self.axis: Tensor
        self.register_buffer("axis", torch.tensor(axis), persistent=False)

    def forward(
        self, x: Float[Tensor, "rows n dim"], positions: Int[Tensor, "*axes rows n"]
    ) -> tuple[Float[Tensor, "rows n head"], Float[Tensor, "rows n head"]]:
        """Cosines and sines for every row and position."""
        if positions.ndim == 2:
            return self.plain(x, positions)
        # every axis gives all pairs; each pair takes those of its own axis
        cos, sin = self.plain(x, positions.flatten(0, 1))
        return self._chosen(cos, len(positions)), self._chosen(sin, len(positions))

    def _chosen(self, turns: Tensor, axes: int) -> Tensor:
        by_axis = turns.unflatten(0, (axes, -1))
        index = self.axis.repeat(2).expand(1, *by_axis.shape[1:])
        return by_axis.gather(0, index)[0]
