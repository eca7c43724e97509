"""Module of `fusion.adapted_splice`; parameters have the names that peft gives them in the language model."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from omniform.fusion.adapted_splice import AdaptedSplice
from omniform.fusion.splice_module import SpliceModule


class AdaptedSpliceModule(SpliceModule):
    """`adapters` mirrors the language model's modules down to those that are adapted."""

    def __init__(self, spec: AdaptedSplice, backbone: Any, width: int) -> None:
        super().__init__(spec, backbone, width)
        self.adapters = nn.Module()
        for name, layer in backbone.lm.named_modules():
            if name.rpartition(".")[2] in spec.layers:
                adapter = Adapter(spec, layer)
                _put(self.adapters, name, adapter)
                self._handles.append(layer.register_forward_hook(adapter.add))


class Adapter(nn.Module):
    """Two linear layers beside one of the backbone's; the second begins at zero."""

    def __init__(self, spec: AdaptedSplice, layer: nn.Linear) -> None:
        super().__init__()
        down = nn.Linear(layer.in_features, spec.rank, bias=False)
        up = nn.Linear(spec.rank, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(down.weight, a=5**0.5)
        nn.init.zeros_(up.weight)
        self.lora_A, self.lora_B = nn.ModuleDict({"default": down}), nn.ModuleDict({"default": up})
        self.dropout = nn.Dropout(spec.dropout)
        self.scale = spec.alpha / spec.rank

    def forward(self, x: Float[Tensor, "*shape in_dim"]) -> Float[Tensor, "*shape out_dim"]:
        return self.lora_B["default"](self.lora_A["default"](self.dropout(x))) * self.scale

    def add(self, layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """The layer's output, and what the adapter adds to it."""
        return out + self(given[0]).to(out.dtype)


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Place a module at a dotted name, with empty modules on the way."""
    *path, last = name.split(".")
    for step in path:
        if step not in dict(root.named_children()):
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(last, module)
