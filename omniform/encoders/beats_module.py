"""Module of `encoders.beats`, with the parameter names of the released checkpoints."""

from __future__ import annotations

from math import log
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from omniform.batch import Features
from omniform.encoders.audio_module import AudioModule, filter_banks
from omniform.encoders.beats import BINS, Beats

FULL_SCALE = 2.0**15
"""Kaldi reads samples of 16 bits as they are."""
GATES = 8
STD = 0.02


class BeatsModule(AudioModule):
    """Filter banks (views, frames, 128) -> (views, time steps * 8, width), the patches of one step side by side."""

    def __init__(self, spec: Beats) -> None:
        super().__init__(spec)
        self.patch_embedding = nn.Conv2d(1, spec.patch_width, spec.patch, stride=spec.patch, bias=False)
        self.layer_norm = nn.LayerNorm(spec.patch_width)
        self.post_extract_proj = nn.Linear(spec.patch_width, spec.width)
        self.encoder = Encoder(spec)
        self.predictor = nn.Linear(spec.width, spec.classes) if spec.classes else None
        self.apply(_init)
        self.encoder.scale_init()

    def normalise(self, waves: Float[Tensor, "views 1 samples"]) -> Float[Tensor, "views frames bins"]:
        banks = filter_banks(waves[:, 0].float() * FULL_SCALE, BINS, rate=self.spec.rate)
        return ((banks - self.spec.bank_mean) / (2 * self.spec.bank_deviation)).to(self.dtype())

    def forward(
        self, heard: Float[Tensor, "views frames bins"], silent: Bool[Tensor, "views cells"] | None = None
    ) -> Features:
        """Features of whole sounds.

        Args:
            silent: cells that stand for silence added to make sounds equally long; they are not attended to.
        """
        patches = self.patch_embedding(heard[:, None])
        x = self.post_extract_proj(self.layer_norm(patches.flatten(2).transpose(1, 2)))
        return Features(self.encoder(x, silent), (patches.shape[2], patches.shape[3]))

    def probabilities(
        self, features: Float[Tensor, "views cells width"], silent: Bool[Tensor, "views cells"] | None = None
    ) -> Float[Tensor, "views classes"]:
        """Of every class, independent of each other: the logits' mean over cells, then a sigmoid.

        Raises:
            ValueError: the weights hold no classifier.
        """
        if self.predictor is None:
            raise ValueError("these weights hold no classifier; BEATs fine-tuned on AudioSet do")
        heard = torch.ones(features.shape[:2]) if silent is None else (~silent).float()
        weights = (heard / heard.sum(1, keepdim=True)).to(features.device, features.dtype)
        return (self.predictor(features) * weights[..., None]).sum(1).sigmoid()

    def idle(self) -> tuple[str, ...]:
        return ("predictor.",)

    def layer_prefix(self) -> str:
        return "encoder.layers."


def pooled(silent: Bool[Tensor, "views samples"], *lengths: int) -> Bool[Tensor, "views cells"]:
    """Silence of samples -> of frames -> of cells as the original reckons it: equal runs in order, all of one silent.

    What does not fill a run at the end is dropped. Cells are taken for a row in time, though 8 share a time step.
    """
    for length in lengths:
        silent = silent[:, : silent.shape[1] // length * length].unflatten(1, (length, -1)).all(-1)
    return silent


class Encoder(nn.Module):
    """Places, then post-norm layers; the first layer's table of position biases serves all."""

    def __init__(self, spec: Beats) -> None:
        super().__init__()
        self.pos_conv = nn.ModuleList([PlaceConv(spec)])
        self.layer_norm = nn.LayerNorm(spec.width)
        table = nn.Embedding(spec.buckets, spec.heads)
        self.layers: Any = nn.ModuleList(Layer(spec, table) for _ in range(spec.layers))
        self.spec = spec

    def forward(
        self, x: Float[Tensor, "views cells width"], silent: Bool[Tensor, "views cells"] | None
    ) -> Float[Tensor, "views cells width"]:
        if silent is not None:
            x = x.masked_fill(silent[..., None], 0.0)
        x = self.layer_norm(x + self.pos_conv[0](x))
        buckets = position_buckets(x.shape[1], self.spec.buckets, self.spec.farthest).to(x.device)
        bias = self.layers[0].self_attn.relative_attention_bias(buckets).permute(2, 0, 1)
        for layer in self.layers:
            x = layer(x, bias, silent)
        return x

    def scale_init(self) -> None:
        """Smaller weights, as deep post-norm layers need them (arXiv:2203.00555)."""
        small = (8 * self.spec.layers) ** -0.25
        for layer in self.layers:
            attention = layer.self_attn
            for linear in (attention.q_proj, attention.k_proj):
                nn.init.xavier_normal_(linear.weight)
            for linear in (attention.v_proj, attention.out_proj, layer.fc1, layer.fc2):
                nn.init.xavier_normal_(linear.weight, gain=small)


class PlaceConv(nn.Module):
    """Grouped convolution along the row of cells; its weight is a direction times a length for each tap."""

    def __init__(self, spec: Beats) -> None:
        super().__init__()
        kernel, width, groups = spec.position_kernel, spec.width, spec.position_groups
        std = (4.0 / (kernel * width)) ** 0.5
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel) * std)
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True).clone())
        self.bias = nn.Parameter(torch.zeros(width))
        self.kernel, self.groups = kernel, groups

    def forward(self, x: Float[Tensor, "views cells width"]) -> Float[Tensor, "views cells width"]:
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)


class Layer(nn.Module):
    """Attention and MLP, each added to its input times a constant above 1 (DeepNorm) and normed."""

    def __init__(self, spec: Beats, table: nn.Embedding) -> None:
        super().__init__()
        self.self_attn = Attention(spec, table)
        self.self_attn_layer_norm = nn.LayerNorm(spec.width)
        self.fc1 = nn.Linear(spec.width, spec.mlp_dim)
        self.fc2 = nn.Linear(spec.mlp_dim, spec.width)
        self.final_layer_norm = nn.LayerNorm(spec.width)
        self.alpha = (2 * spec.layers) ** 0.25

    def forward(self, x: Tensor, bias: Tensor, silent: Tensor | None) -> Tensor:
        x = self.self_attn_layer_norm(x * self.alpha + self.self_attn(x, bias, silent))
        return self.final_layer_norm(x * self.alpha + self.fc2(F.gelu(self.fc1(x))))


class Attention(nn.Module):
    """Multi-head attention; each query scales the position biases by a gate of its own."""

    def __init__(self, spec: Beats, table: nn.Embedding) -> None:
        super().__init__()
        width = spec.width
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.relative_attention_bias = table
        self.grep_linear = nn.Linear(width // spec.heads, GATES)
        self.grep_a = nn.Parameter(torch.ones(1, spec.heads, 1, 1))
        self.heads = spec.heads

    def forward(
        self, x: Float[Tensor, "views cells width"], bias: Float[Tensor, "heads cells cells"], silent: Tensor | None
    ) -> Float[Tensor, "views cells width"]:
        projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        query, key, value = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        gated = self._gate(query) * bias
        if silent is not None:
            gated = gated.masked_fill(silent[:, None, None], -torch.inf)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=gated)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _gate(self, query: Float[Tensor, "views heads cells own"]) -> Float[Tensor, "views heads cells 1"]:
        first, second = self.grep_linear(query).unflatten(-1, (2, GATES // 2)).sum(-1).sigmoid().chunk(2, dim=-1)
        return first * (second * self.grep_a - 1.0) + 2.0


def position_buckets(length: int, buckets: int, farthest: int) -> Int[Tensor, "length length"]:
    """Bucket of every pair (query, key) of positions: exact for near ones, then wider and wider, half for each side."""
    place = torch.arange(length)
    offset = place[None] - place[:, None]
    half, exact = buckets // 2, buckets // 4
    apart = offset.abs()
    far = (apart.float() / exact).log() / log(farthest / exact) * (half - exact)
    wide = (exact + far.clamp(min=0).long()).clamp(max=half - 1)
    return (offset > 0).long() * half + torch.where(apart < exact, apart, wide)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
