"""How many parameters a system has, and how many learn in a stage."""

from __future__ import annotations

from typing import Any

from omniform.geometry import SpecError
from omniform.spec import Continuous, Discrete, Learn, Stage, System


def parameters(system: System) -> dict[str, int]:
    """Part path -> parameters, learned rows (newline ...) with the connector that they follow; their sum is the total.

    A tied output head counts once, and so does an encoder that a codec shares: with the input that lends it. Parts
    without parameters are left out.
    """
    dim = system.backbone.dim
    found = {f"{modality}.encoder": encoder.num_params() for modality, encoder in system.encoders.items()}
    for modality, entry in system.inputs.items():
        if isinstance(entry, Continuous):
            rows = entry.width(dim) * len(_rows_placed(system, modality, None))
            found[f"{modality}.connector"] = entry.connector.num_params(**entry.widths(dim)) + rows
            found[f"{modality}.fusion"] = entry.fusion.num_params(system.backbone, entry.width(dim))
    for modality, codec in system.codecs.items():
        own = system.inputs.get(modality)
        lent = own.encoder.num_params() if isinstance(own, Continuous) and own.lends(codec) else 0
        found[f"{modality}.codec"] = codec.num_params() - lent
    found["backbone"] = system.backbone.num_params()
    found.update(
        {
            f"{modality}.decoder": decoder.num_params(**decoder.widths(dim, system.inputs))
            for modality, decoder in system.outputs.items()
        }
    )
    made = {modality: decoder.generator for modality, decoder in system.outputs.items()}
    found.update({f"{modality}.diffusion": model.num_params() for modality, model in made.items() if model})
    return {part: number for part, number in found.items() if number}


def learning(system: System, stage: Stage) -> dict[str, int]:
    """Part path -> parameters that learn in a stage; low-rank adapters as "PART.lora".

    Parameters that no feature depends on, and rows that the stage's views never place, do not learn. An embedding of
    which the rows of some tokens learn counts whole, as its gradient and moments are kept whole.
    """
    found = {item.part: _learns(system, stage, item) for item in stage.learn}
    if stage.lora:
        found[f"{stage.lora.part}.lora"] = adapter_params(system, stage)
    return found


def _backbone_learns(backbone: Any, stage: Stage, item: Learn) -> int:
    if item.part == "backbone.experts":
        return int(backbone.experts_params())
    joined = stage.experts == "joined" and backbone.experts_part
    return int((backbone.joined() if joined else backbone).learnable_params(item.first_layer))


def _learns(system: System, stage: Stage, item: Learn) -> int:
    modality, _, kind = item.part.partition(".")
    dim = system.backbone.dim
    if item.tokens:
        return system.backbone.vocab * dim * (system.backbone.tables if item.head else 1)
    if item.part.startswith("backbone"):
        return _backbone_learns(system.backbone, stage, item)
    if kind == "decoder":
        output = system.outputs[modality]
        return output.num_params(**output.widths(dim, system.inputs))
    if kind in ("codec", "diffusion"):
        part: Any = system.parts()[item.part]
        return int(part.num_params() if kind == "codec" else part.learnable_params())
    entry = system.continuous(modality)
    if kind == "encoder":
        return entry.encoder.learnable_params(item.first_layer)
    if kind == "fusion":
        return entry.fusion.learnable_params(system.backbone, entry.width(dim))
    connector = entry.connector.num_params(**entry.widths(dim)) - sum(number for _, number in entry.connector.idle())
    return connector + entry.width(dim) * len(_rows_placed(system, modality, stage))


def adapter_params(system: System, stage: Stage) -> int:
    """Parameters of the low-rank adapters of a stage.

    Raises:
        SpecError: adapters on a part other than the backbone, or on layers whose names are not known.
    """
    if not stage.lora:
        return 0
    if stage.lora.part != "backbone":
        raise SpecError(f"stage {stage.name!r}: the size of adapters is known for the backbone, not {stage.lora.part}")
    if stage.lora.layers:
        linears = system.backbone.named_linears()
        return system.backbone.layers * stage.lora.rank * sum(sum(linears[name]) for name in stage.lora.layers)
    return system.backbone.lora_params(stage.lora.rank)


def _rows_placed(system: System, modality: str, stage: Stage | None) -> set[str]:
    """Learned rows of an input that the views of its modalities place."""
    own = stage.views if stage else {}
    rows: set[str] = set()
    for name, entry in system.inputs.items():
        if not isinstance(entry, Discrete) and system.owner(name) == modality:
            rows.update(own.get(name, entry.views).learned)
    return rows
