"""Low-rank adapters (arXiv:2106.09685) through peft: put into a part for a stage, merged when it ends."""

from __future__ import annotations

from typing import Any

from torch import nn

from omniform.index import unknown
from omniform.model import Lmm
from omniform.spec import Lora
from omniform.training.plain import RecipeError

BASE = ".base_layer."
"""What peft puts into the names of weights that are adapted."""


def inject(model: Lmm, lora: Lora) -> dict[str, nn.Parameter]:
    """Put adapters on linear layers of a part; gives the adapters' parameters by name.

    Raises:
        RecipeError: the part has no linear layers, or none of a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    root = model.part(lora.part)
    names = list(_layers(model, lora))
    if not names:
        raise RecipeError(f"lora on {lora.part}: {type(root).__name__} has no linear layers; choose another part")
    options: dict[str, Any] = {"lora_alpha": lora.alpha, "lora_dropout": lora.dropout}  # typed int, but used as a float
    config = LoraConfig(r=lora.rank, target_modules=names, bias="none", **options)
    inject_adapter_in_model(config, root)
    adapters = {id(p) for m in _adapted(root).values() for n, p in m.named_parameters() if "lora_" in n}
    return {name: p for name, p in model.named_parameters() if id(p) in adapters}


def adapted_weights(model: Lmm, lora: Lora) -> set[str]:
    """Names of the weights that adapters on a part would change when they are merged."""
    weights = {id(layer.weight) for layer in _layers(model, lora).values()}
    return {name for name, p in model.parameters_of(lora.part) if id(p) in weights}


def merge(model: Lmm, part: str) -> None:
    """Add the adapters of a part to the weights they adapt, and take them out."""
    root = model.part(part)
    for name, layer in _adapted(root).items():
        layer.merge(safe_merge=True)  # refuses weights that are not finite
        parent, _, own = name.rpartition(".")
        setattr(root.get_submodule(parent), own, layer.get_base_layer())


def plain_name(name: str) -> str:
    """The name that a tensor has without adapters."""
    return name.replace(BASE, ".")


def _layers(model: Lmm, lora: Lora) -> dict[str, nn.Linear]:
    """Linear layers to adapt that the part's output depends on, by name in the part; never the output head."""
    used = {id(p) for _, p in model.parameters_of(lora.part)}
    head = model.backbone.lm.get_output_embeddings()
    modules = model.part(lora.part).named_modules()
    linear = {n: m for n, m in modules if isinstance(m, nn.Linear) and m is not head and id(m.weight) in used}
    own = {name: name.rpartition(".")[2] for name in linear}
    for name in lora.layers:
        if name not in own.values():
            raise RecipeError(str(unknown(f"linear layer of {lora.part} for lora", name, own.values())))
    return {name: m for name, m in linear.items() if not lora.layers or own[name] in lora.layers}


def _adapted(root: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in root.named_modules() if isinstance(m, LoraLayer)}
