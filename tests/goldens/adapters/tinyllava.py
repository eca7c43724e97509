"""TinyLLaVA: whole models, the connector of two encoders, pixels, prompts and label masks."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from omniform import index
from omniform.batch import Features
from omniform.connectors.mof_mlp import MofMlp
from omniform.systems import tinyllava
from omniform.systems._conversations import PLAIN, VICUNA_V1
from omniform.views.fixed import Fixed

from ..golden import Golden
from . import _family, _llava, _texts
from ._load import build

PROMPTS = {
    "phi": tinyllava.PHI, "llama": VICUNA_V1, "gemma": tinyllava.GEMMA, "qwen2_base": tinyllava.PHI,
    "qwen2_instruct": tinyllava.QWEN2_INSTRUCT, "pretrain": PLAIN, "plain": PLAIN,
}  # fmt: skip
FAMILIES = {"Phi": "phi", "Gemma": "gemma", "StableLm": "stablelm", "Qwen2": "qwen2", "Llama": "llama"}


def run(golden: Golden) -> dict[str, Any]:
    if "clip_features" in golden.inputs:
        return mixture(golden)
    if not golden.data:
        return whole(golden)
    if "cases" in golden.data:
        padded = index.system("tinyllava").but({"inputs.image.views": Fixed(fit="pad")})
        return {**_family.pixels(golden, {"square": 0}), **_family.pixels(golden, {"pad": 0}, padded)}
    return _texts.run(golden.data, "tinyllava", PROMPTS)


def whole(golden: Golden) -> dict[str, Tensor]:
    system = index.release("tinyllava", config(golden))
    return _llava.results(golden, _llava.trace(golden, build(system, golden.params), _llava.Habits()))


def config(golden: Golden) -> dict[str, Any]:
    """The golden's configuration under the release's keys; the key of the language model names its class."""
    said = golden.config
    name = next(key for key in said if key.startswith("llm"))
    named = re.search(r"\((\w+?)ForCausalLM", name)
    vision = next(v for v in said.values() if isinstance(v, dict) and "patch_size" in v)
    return {
        "text_config": {"model_type": FAMILIES.get(named[1] if named else "Phi", "phi"), **said[name]},
        "vision_config": vision,
        "connector_type": said.get("connector"),
        "vision_feature_layer": said.get("vision_feature_layer", -2),
        "vision_feature_select_strategy": said.get("select", "patch"),
    }


def mixture(golden: Golden) -> dict[str, Tensor]:
    first, second = (golden.inputs[name] for name in ("clip_features", "dinov2_features"))
    grid = (round(first.shape[1] ** 0.5),) * 2
    sizes = {"in_dim": first.shape[2], "out_dim": golden.config["hidden_size"], "others": (second.shape[2],)}
    system = index.system("tinyllava:tinyllama-mof")
    return _family.connector(golden, system, MofMlp(), sizes, Features(first, grid), Features(second, grid))
