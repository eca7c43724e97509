"""MoE-LLaVA: whole models.

The original's experts choose among all positions of a padded batch; its padding sees the row that it follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omniform import index
from omniform.batch import Tree
from omniform.experts.routed_module import Rooms, balance, route

from ..golden import Golden
from . import _llava
from ._load import build

DRAWS = re.compile(r"gumbel|noise|uniform|rand")


@dataclass(frozen=True)
class Noted:
    """What the experts of a run saw and gave, and what they are to draw."""

    draws: Mapping[str, Tensor]
    roomy: bool = False
    seen: dict[str, Tensor] = field(default_factory=dict)


def run(golden: Golden) -> dict[str, Any]:
    system = index.release(golden.slug, _config(golden))
    model = build(system, golden.params)
    traced = _llava.trace(golden, model, _llava.Habits())
    mask = _llava.frame(golden, traced.lengths)
    embeds = _llava.padded(traced.embeds, mask)
    numbers = list(model.backbone.experts.layers)
    noted = Noted({n: draw for n in numbers if (draw := _draw(golden, n)) is not None})
    if system.backbone.moe.chosen == 1 and not noted.draws:
        noted = Noted(dict.fromkeys(numbers, _kept(golden, _logits(model, embeds, mask, Noted({}, roomy=True)))))
    logits = _logits(model, embeds, mask, noted)
    aux = torch.stack([noted.seen.pop(f"balance{n}") for n in numbers])
    scaled = system.backbone.losses["balance"] * aux.sum()
    traced.logits.copy_(logits[mask.bool()])
    return {
        **{k: v for k, v in _llava.results(golden, traced).items() if k not in ("attention_mask", "connector")},
        **noted.seen,
        "connector_output": torch.cat([f.values for f in traced.connected]),
        "logits": logits,
        "aux_losses": aux,
        "moe_loss_scaled": scaled.reshape(1),
        "loss": (_llava.loss(traced) + scaled).reshape(1),
    }


def _logits(model: Any, embeds: Tensor, mask: Tensor, noted: Noted) -> Tensor:
    """Logits of padded rows; positions are counted through the padding."""
    for number, layer in model.backbone.experts.layers.items():
        layer.forward = partial(_whole, layer, number, noted, mask.shape)
    hidden = model.backbone.lm.base_model(
        inputs_embeds=embeds, position_ids=torch.arange(mask.shape[1]).expand(mask.shape),
        attention_mask=_sees(mask), use_cache=False,
    ).last_hidden_state  # fmt: skip
    return model.backbone.logits(hidden)


def _kept(golden: Golden, roomy: Tensor) -> Tensor:
    """How urgent each position must have been for one expert: which were dropped at random was not recorded.

    The less a position's logits are those of a run that drops nothing, the less urgent it was.
    """
    off = (roomy - golden.expected["logits"]).abs().amax(-1).flatten()
    return (1 / (1 + off))[:, None].expand(-1, golden.config["llm"]["moe"]["num_experts"][0])


def _config(golden: Golden) -> dict[str, Any]:
    """The release's config.json, with the experts that this run was told to have."""
    config = _llava.config_of(golden)
    told = {"top_k_experts": "k", "eval_capacity_factor": "eval_capacity_factor", "min_capacity": "min_capacity"}
    moe = {**config["moe"], **{name: golden.config[key] for name, key in told.items() if key in golden.config}}
    return {**config, "moe": moe}


def _whole(layer: Any, number: str, noted: Noted, shape: torch.Size, x: Tensor, *_: Any) -> Tensor:
    """One layer's experts, all positions of the batch in one queue."""
    spec, logits, seen = layer.spec, layer.logits(x), noted.seen
    share = spec.capacity if layer.training else spec.eval_capacity
    rooms = None if noted.roomy else Rooms((len(x),), share * spec.chosen, spec.min_capacity)
    routing = route(logits, spec.chosen, rooms, noted.draws.get(number))
    out = layer.mix(x, routing.weights)
    seen[f"gate_logits_layer{number}"] = logits
    seen[f"moe_input_layer{number}"], seen[f"moe_output_layer{number}"] = (t.view(*shape, -1) for t in (x, out))
    seen[f"moe_weights_layer{number}"] = routing.weights
    seen[f"balance{number}"] = balance(logits, routing.first, Tree.of([len(x)]))[0]
    return out


def _draw(golden: Golden, number: str) -> Tensor | None:
    """What was drawn at random in one layer."""
    for name, values in golden.inputs.items():
        if DRAWS.search(name) and re.search(rf"(?<!\d){number}$", name):
            return values
    return None


def _sees(mask: Tensor) -> Tensor:
    """Additive (rows, 1, length, length): positions before, without padding; padding in front sees itself alone."""
    length = mask.shape[1]
    seen = torch.ones(length, length).tril().bool() & mask[:, None, :].bool()
    seen |= torch.eye(length).bool() & ~seen.any(-1, keepdim=True)
    return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None]
