"""Low-rank adapters (arXiv:2106.09685) through peft: put into a part for a stage, merged when it ends."""

from __future__ import annotations

from typing import Any

from torch import nn

from omniform.model import Lmm
from omniform.spec import Lora
from omniform.training.plain import RecipeError

BASE = ".base_layer."
"""What peft puts into the names of weights that are adapted."""


def inject(model: Lmm, lora: Lora) -> dict[str, nn.Parameter]:
    """Put adapters on all linear layers of a part except the output head; gives the adapters' parameters by name.

    Raises:
        RecipeError: the part has no linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    root = model.part(lora.part)
    names = list(_layers(model, lora.part))
    if not names:
        raise RecipeError(f"lora on {lora.part}: {type(root).__name__} has no linear layers; choose another part")
    options: dict[str, Any] = {"lora_alpha": lora.alpha, "lora_dropout": lora.dropout}  # typed int, but used as a float
    config = LoraConfig(r=lora.rank, target_modules=names, bias="none", **options)
    inject_adapter_in_model(config, root)
    adapters = {id(p) for m in _adapted(root).values() for n, p in m.named_parameters() if "lora_" in n}
    return {name: p for name, p in model.named_parameters() if id(p) in adapters}


def adapted_weights(model: Lmm, part: str) -> set[str]:
    """Names of the weights that adapters on a part would change when they are merged."""
    weights = {id(layer.weight) for layer in _layers(model, part).values()}
    return {name for name, p in model.parameters_of(part) if id(p) in weights}


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


def _layers(model: Lmm, part: str) -> dict[str, nn.Linear]:
    """Linear layers of a part that its output depends on, by name in the part; not the output head."""
    used = {id(p) for _, p in model.parameters_of(part)}
    head = model.backbone.lm.get_output_embeddings()
    linear = {name: m for name, m in model.part(part).named_modules() if isinstance(m, nn.Linear) and m is not head}
    return {name: m for name, m in linear.items() if id(m.weight) in used}


def _adapted(root: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: m for name, m in root.named_modules() if isinstance(m, LoraLayer)}
