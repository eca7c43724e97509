"""Module of `backbones.stablelm`."""

from __future__ import annotations

from typing import Any

from omniform.backbones.decoder_module import DecoderModule
from omniform.backbones.stablelm import StableLm


class StableLmModule(DecoderModule):
    """transformers' layer keeps keyword arguments from its attention (`StableLmDecoderLayer.forward`, 5.17 to 5.23):
    two hooks hand the tree on, also when a checkpointed layer runs again."""

    def __init__(self, spec: StableLm) -> None:
        super().__init__(spec)
        for layer in self.lm.base_model.layers:
            layer.register_forward_pre_hook(_keep_tree, with_kwargs=True)
            layer.self_attn.register_forward_pre_hook(_give_tree, with_kwargs=True)


def _keep_tree(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    layer.self_attn.tree = kwargs.get("tree")


def _give_tree(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "tree": attention.tree}
