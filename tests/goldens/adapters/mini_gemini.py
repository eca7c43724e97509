"""Mini-Gemini: whole models, the coarse encoder's pictures cut already, and prompts of every language model.

A golden's coarse pictures are one a view, or crops with the whole picture last; here the whole comes first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform import index
from omniform.batch import Features
from omniform.connectors.patch_mining import overviews
from omniform.encoders.convnext_clip import ConvNextClip
from omniform.encoders.cropped import Cropped
from omniform.encoders.cropped_module import CroppedModule
from omniform.encoders.several import Several
from omniform.geometry import MediaSize
from omniform.spec import System
from omniform.systems import mini_gemini

from ..golden import Golden
from . import _llava, _preprocess, _texts
from ._load import build

PROMPTS = {
    "v1": mini_gemini.VICUNA_V1, "vicuna_v1": mini_gemini.VICUNA_V1, "gemma": mini_gemini.GEMMA,
    "llama_3": mini_gemini.LLAMA_3, "mistral_instruct": mini_gemini.MISTRAL_INSTRUCT,
    "chatml_direct": mini_gemini.CHATML_DIRECT, "plain": mini_gemini.PLAIN,
}  # fmt: skip


def run(golden: Golden) -> dict[str, Any]:
    if not golden.data:
        return whole(golden)
    return pictures(golden) if "cases" in golden.data else _texts.run(golden.data, golden.slug, PROMPTS)


def pictures(golden: Golden) -> dict[str, Any]:
    """Positions and pixels: of the fine view, and of what the coarse encoder sees of it, the whole picture last."""
    found: dict[str, Any] = {}
    for path, picture, size, said in _preprocess.cases(golden.data):
        finer = "hd" in str(said.get("variant", golden.data.get("config", ""))).lower()
        system = index.system("mini-gemini:7b-hd" if finer else "mini-gemini")
        encoder, plan = system.continuous("image").encoder, system.plan("image", size)
        assert isinstance(encoder, Several)
        fine = _preprocess.normalised(picture, plan, encoder)
        coarse = F.interpolate(fine, size=encoder.members[0].size, mode="bilinear", align_corners=False)
        if isinstance(encoder.members[0], Cropped):
            with torch.device("meta"):
                cropped = CroppedModule(encoder.members[0])
            coarse = cropped.cut(coarse)[0].roll(-1, dims=0)
        found |= _preprocess.told(path, said, plan, fine, coarse)
    return found


def whole(golden: Golden) -> dict[str, Tensor]:
    system = system_of(golden)
    model = build(system, golden.params)
    stream = model.stream("image")
    coarse, fine = encoded(golden, stream.encoder)
    side = stream.encoder.spec.size
    plan = system.plan("image", MediaSize(width=side[1], height=side[0]))
    each = [tuple(Features(f.values[i : i + 1], f.grid) for f in (coarse, fine)) for i in range(len(fine.values))]
    rows = [stream.rows([streams], (plan,)) for streams in each]
    connected = stream.connector(coarse, fine)
    traced = _llava.of_rows(golden, model, rows, ([coarse], [coarse], [connected]))
    return {
        **_llava.results(golden, traced),
        "vision_features": _as_original(coarse),
        "aux_features": fine.values.transpose(1, 2).unflatten(2, fine.grid),
        "visual_embeds": connected.values,
    }


def system_of(golden: Golden) -> System:
    """Sized by the golden's configuration, the ConvNeXt by its own part of it."""
    config, aux = golden.config, golden.config["aux"]
    release = {
        **config["llm"], "vision_config": config["vision"], "mm_vision_select_layer": config["select_layer"],
        "mm_projector_type": config["mm_projector"], "image_grid": config["image_grid"],
        "image_global": config["image_global"], "image_size_aux": golden.inputs["pixel_values_aux"].shape[-1],
    }  # fmt: skip
    system = index.release(golden.slug, release)
    encoders = system.continuous("image").encoder
    assert isinstance(encoders, Several)
    coarse, fine = encoders.members
    assert isinstance(fine, ConvNextClip)
    fine = fine.but(widths=tuple(aux["dims"]), depths=tuple(aux["depths"]))
    return system.but({"inputs.image.encoder": Several(members=(coarse, fine))})


def encoded(golden: Golden, encoder: Any) -> tuple[Features, Features]:
    """Features of both encoders from pictures that are made for each of them already."""
    first, second = encoder.members
    pictures = golden.inputs["pixel_values"]
    if not isinstance(first, CroppedModule):
        return first(pictures), second(golden.inputs["pixel_values_aux"])
    if first.spec.overview:
        pictures = torch.cat([pictures[:, -1:], pictures[:, :-1]], dim=1)
    return first.read(pictures), second(golden.inputs["pixel_values_aux"])


def _as_original(features: Features) -> Tensor:
    """Of pieces: all crops of all pictures, then all whole pictures."""
    if len(features.grid) == 2:
        return features.values
    pieces = features.values.unflatten(1, (features.grid[0], -1))
    lead = overviews(features.grid[0])
    return torch.cat([pieces[:, lead:].flatten(0, 1), pieces[:, :lead].flatten(0, 1)])
