"""OpenCLIP's names hold the same numbers as transformers' CLIP."""

from __future__ import annotations

import torch

from omniform.encoders.clip import CLIP_L_224
from omniform.encoders.open_clip import OPEN_CLIP_L_224

PATCHES = "embeddings.patch_embedding.weight"
OPEN_CLIP = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
"""OpenCLIP's parameter names in a layer, and transformers'."""


def test_open_clip_equals_clip_under_its_own_names() -> None:
    encoder = OPEN_CLIP_L_224.shrunk("tiny")
    clip, module = CLIP_L_224.shrunk("tiny").but(feature_layer=-1).build(), encoder.build()
    held = clip.model.state_dict()
    state = {"visual.class_embedding": held["embeddings.class_embedding"], "visual.proj": module.visual.proj.data}
    for ours, theirs in (("positional_embedding", "embeddings.position_embedding.weight"), ("conv1.weight", PATCHES)):
        state[f"visual.{ours}"] = held[theirs]
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        state |= {f"visual.{ours}.{kind}": held[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    for number in range(encoder.layers):
        old, new = f"encoder.layers.{number}.", f"visual.transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            fused = torch.cat([held[f"{old}self_attn.{name}_proj.{kind}"] for name in "qkv"])
            state[f"{new}attn.in_proj_{kind}"] = fused
            state |= {f"{new}{ours}.{kind}": held[f"{old}{theirs}.{kind}"] for ours, theirs in OPEN_CLIP}
    module.load_state_dict(state)
    pixels = clip.normalise(torch.randint(0, 256, (2, 3, *encoder.size), dtype=torch.uint8))
    assert torch.allclose(module(pixels).values, clip(pixels).values, atol=1e-5)
