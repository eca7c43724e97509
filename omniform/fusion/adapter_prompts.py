"""Learned prompts that upper layers attend to beside the sequence, behind gates that begin closed (LLaMA-Adapter)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from omniform.geometry import SpecError
from omniform.parts import Backbone, Fusion, Shrunk


@dataclass(frozen=True, kw_only=True)
class AdapterPrompts(Fusion):
    """arXiv:2303.16199 sections 3.2, 3.3: prompts have a softmax of their own, and media are added to them.

    Rows take no positions: the mean of those of a document is added to every prompt that the document sees. The layers'
    own keys and values are made of the prompts, without norm and rotation (OpenGVLab/LLaMA-Adapter@521a09d
    alpaca_finetuning_v1/llama/model.py:98-130). All layers hold gates, the lower ones idle.

    Attributes:
        length: prompts of a layer.
        layers: adapted layers, the topmost.
        squashed: whether a gate counts by its tanh (training code), or as it is (inference code, llama/model.py).
    """

    implementation = "omniform.fusion.adapter_prompts_module:AdapterPromptsModule"
    in_sequence = False
    whole_document = True

    length: int = 10
    layers: int = 30
    squashed: bool = True

    def check(self, backbone: Backbone) -> None:
        decoder: Any = backbone
        if backbone.memory != "keys" or len(decoder.linears()["qkv"]) != 3:
            raise SpecError(
                "prompts need linear modules of their own for keys and for values, which the layers of "
                f"{type(backbone).__name__} lack; those of Llama, Mistral, Qwen2, Phi and Opt have them"
            )
        if self.layers > backbone.layers:
            raise SpecError(f"prompts for {self.layers} layers, but the backbone has {backbone.layers}")

    def num_params(self, backbone: Backbone, width: int) -> int:
        return self.learnable_params(backbone, width) + (backbone.layers - self.layers) * _heads(backbone)

    def learnable_params(self, backbone: Backbone, width: int) -> int:
        return self.layers * (self.length * backbone.dim + _heads(backbone))

    def flops(self, backbone: Backbone, width: int, positions: int, rows: int) -> int:
        decoder: Any = backbone
        (_, key), (_, value) = decoder.linears()["qkv"][1:]
        made = 2 * self.length * backbone.dim * (key + value)
        seen = 4 * positions * self.length * decoder.heads * decoder.per_head
        return 2 * self.layers * (made + seen)  # the prompts with the picture, and those of documents without one

    def shrunk(self, size: Shrunk) -> Self:
        return self.but(layers=1 if size == "tiny" else 3)


def _heads(backbone: Any) -> int:
    return int(backbone.heads)
