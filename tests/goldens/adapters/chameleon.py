"""Chameleon: the codec of its pictures."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from omniform.codecs.vqgan import VqGan

from ..golden import Golden
from ._load import load


def run(golden: Golden) -> dict[str, Any]:
    return codec(golden)


# --- pictures ----------------------------------------------------------------------------------------------------


def codec(golden: Golden) -> dict[str, Tensor]:
    """The half of the codec whose weights the golden holds."""
    said = golden.config["ddconfig"]
    spec = VqGan(
        image=said["resolution"], width=said["ch"], levels=tuple(said["ch_mult"]), blocks=said["num_res_blocks"],
        latent=said["z_channels"], attended=tuple(said["attn_resolutions"]), dim=golden.config["embed_dim"],
        entries=golden.config["n_embed"],
    )  # fmt: skip
    part = spec.build().eval()
    half = nn.Module()
    for name in dict.fromkeys(key.split(".")[0] for key in golden.params):
        half.add_module(name, getattr(part, name))
    load(half, golden.params, (("", ""),))
    if "indices" in golden.inputs:
        codes = golden.inputs["indices"][None]
        grid = tuple(golden.expected["codebook_entry"].shape[2:])
        return {"codebook_entry": part.entries(codes, grid), "pixels": part.decode(codes, spec.size)}
    features = part.features(golden.inputs["pixel_values"])
    codes = part.encode(golden.inputs["pixel_values"])
    _, loss = part.reconstruct(golden.inputs["pixel_values"])
    quant = part.entries(codes, tuple(features.shape[2:]))
    return {"pre_quant": features, "indices": codes.flatten(), "quant": quant, "emb_loss": loss}
