"""Vision transformers as timm names them, under the names of transformers' checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from omniform.encoders.dinov2 import DinoV2
from omniform.encoders.siglip import SigLip

DINOV2 = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."), ("cls_token", "embeddings.cls_token"),
    ("reg_token", "embeddings.register_tokens"), ("norm.", "layernorm."), ("blocks.", "encoder.layer."),
)  # fmt: skip
DINOV2_LAYER = (
    (".attn.proj.", ".attention.output.dense."), (".ls1.gamma", ".layer_scale1.lambda1"),
    (".ls2.gamma", ".layer_scale2.lambda1"), (".attn.", ".attention.attention."),
)  # fmt: skip
SIGLIP = (
    ("patch_embed.proj.", "vision_model.embeddings.patch_embedding."), ("norm.", "vision_model.post_layernorm."),
    ("blocks.", "vision_model.encoder.layers."),
)  # fmt: skip
SIGLIP_LAYER = (
    (".norm1.", ".layer_norm1."), (".norm2.", ".layer_norm2."), (".attn.proj.", ".self_attn.out_proj."),
    (".attn.q.", ".self_attn.q_proj."), (".attn.k.", ".self_attn.k_proj."), (".attn.v.", ".self_attn.v_proj."),
)  # fmt: skip


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our encoder from timm's arguments."""
    width = config["embed_dim"]
    return {
        "width": width, "layers": config["depth"], "heads": config["num_heads"], "patch": config["patch_size"],
        "mlp_dim": int(width * config["mlp_ratio"]), "image": config["img_size"],
    }  # fmt: skip


def dinov2(config: Mapping[str, Any]) -> DinoV2:
    return DinoV2(**sizes(config), registers=config.get("reg_tokens", 0))


def siglip(config: Mapping[str, Any]) -> SigLip:
    return SigLip(**sizes(config), head=False)


def dinov2_names(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A class token has no position of its own there; the mask token was not kept."""
    positions, width = params["pos_embed"], params["pos_embed"].shape[2]
    found = {_renamed(key, DINOV2, DINOV2_LAYER): t for key, t in _split(params, ("query", "key", "value"))}
    found["embeddings.position_embeddings"] = torch.cat([torch.zeros(1, 1, width), positions], 1)
    found["embeddings.mask_token"] = torch.zeros(1, width)
    return found


def siglip_names(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The pooling head, which no feature depends on, is left out."""
    kept = {key: t for key, t in params.items() if not key.startswith("attn_pool.")}
    found = {_renamed(key, SIGLIP, SIGLIP_LAYER): t for key, t in _split(kept, ("q", "k", "v"))}
    found["vision_model.embeddings.position_embedding.weight"] = params["pos_embed"][0]
    return found


def _split(params: Mapping[str, Tensor], names: tuple[str, str, str]) -> Iterator[tuple[str, Tensor]]:
    """The joined projection as three."""
    for key, tensor in params.items():
        if ".qkv." in key:
            yield from ((key.replace("qkv", name), t) for name, t in zip(names, tensor.chunk(3), strict=True))
        elif key != "pos_embed":
            yield key, tensor


def _renamed(key: str, starts: tuple[tuple[str, str], ...], inside: tuple[tuple[str, str], ...]) -> str:
    start = next(((a, b) for a, b in starts if key.startswith(a)), ("", ""))
    key = start[1] + key.removeprefix(start[0])
    for a, b in inside:
        if a in key:
            return key.replace(a, b)
    return key
