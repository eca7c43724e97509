"""AdamW with one peak learning rate for each part."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from omniform.training.freeze import Learning

PEAK = "peak_lr"


def make_optimizer(learning: Learning, weight_decay: float) -> AdamW:
    """Parameter groups of every part; vectors and scalars (norms, biases, gates, learned rows) do not decay."""
    groups = []
    for lr, named, own in learning.groups:
        decay = weight_decay if own is None else own
        for decays in (True, False):
            members = [p for p in named.values() if (p.ndim > 1) is decays]
            if members:
                groups.append({"params": members, "lr": lr, PEAK: lr, "weight_decay": decay * decays})
    return AdamW(groups, fused=True)


def set_lr(optimizer: AdamW, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK] * factor


def optimizer_tensors(optimizer: AdamW, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's memory as named tensors: "exp_avg/backbone.lm ..."."""
    return {
        f"{key}/{name}": value.contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: AdamW, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        LookupError: a tensor belongs to no parameter that learns.
    """
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if name not in parameters:
            raise LookupError(f"the optimizer's memory holds {name}, which does not learn in this stage")
        parameter = parameters[name]
        place = parameter.device if kind != "step" or parameter.is_cuda else torch.device("cpu")
        optimizer.state[parameter][kind] = value.to(place)
