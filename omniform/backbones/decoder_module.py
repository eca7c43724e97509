"""Module of every decoder-only backbone: a transformers causal LM, fed with embeddings and an attention tree."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.models.llama.modeling_llama import LlamaModel

from omniform import attention
from omniform.backbones.decoder import Decoder
from omniform.batch import Fused, Loss, Notes, Tree

# what transformers' layers call the keys and values that they are given: renamed in 5.24
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


class DecoderModule(nn.Module):
    """A language model whose embedding, trunk and head are called one by one.

    The transformers model is `lm`; `lm.state_dict()` is the plain language model. Where its own layers would lose the
    tree, a subclass gives them a class that does not; weights and their names stay.
    """

    def __init__(self, spec: Decoder) -> None:
        super().__init__()
        self.lm: Any = self.language_model(spec)
        self.spec = spec
        self.experts: Any = None
        if spec.moe:
            self.experts = spec.moe.build(layers=self.layers, attention_of=self.attention_of)

    def language_model(self, spec: Decoder) -> nn.Module:
        """transformers' model, with fresh weights."""
        config = AutoConfig.for_model(spec.model_type, **self.arguments(spec))
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)

    @staticmethod
    def arguments(spec: Decoder) -> dict[str, Any]:
        """What the transformers configuration is told."""
        return spec.config()

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        return self.lm.get_input_embeddings()(ids)

    def forward(
        self,
        embeds: Float[Tensor, "n dim"],
        positions: Int[Tensor, "*axes n"],
        tree: Tree,
        cache: DynamicCache | None = None,
        fused: Fused | None = None,
        notes: Notes | None = None,
    ) -> Float[Tensor, "n dim"]:
        """Last hidden states (after the final norm) of one packed sequence.

        Args:
            fused: what fusions attached to the layers know of this call.
            notes: where layers write down what `losses` reads.
        """
        out = self.lm.base_model(
            inputs_embeds=embeds[None],
            position_ids=positions.unsqueeze(-2),
            tree=tree,
            fused=fused,
            notes=notes,
            use_cache=cache is not None,
            **{CACHE: cache},
        )
        return out.last_hidden_state[0]

    def step(
        self,
        embeds: Float[Tensor, "rows new dim"],
        positions: Int[Tensor, "*axes rows new"],
        mask: Float[Tensor, "rows 1 new keys"] | None,
        cache: DynamicCache,
        fused: Fused | None = None,
    ) -> Float[Tensor, "rows new dim"]:
        """Hidden states of new positions on top of a cache.

        Args:
            mask: additive over all cached and new keys, 0 where one is seen; every query must see one, padding too.
                None: the last position sees all of them, the one before all but one ...
            cache: made without a configuration, so that layers with a window keep all keys; attention applies it.
            fused: as in `forward`, for these positions.
        """
        out = self.lm.base_model(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=mask,
            fused=fused,
            use_cache=True,
            **{CACHE: cache},
        )
        return out.last_hidden_state

    def logits(self, hidden: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape vocab"]:
        return self.lm.get_output_embeddings()(hidden)

    @property
    def layers(self) -> nn.ModuleList:
        """Its layers, for fusions and experts that attach to them."""
        found: Any = self.lm.get_submodule(self.spec.layer_prefix.rstrip("."))
        return found

    def attention_of(self, layer: nn.Module) -> nn.Module:
        """The attention of a layer: the first of its modules to be given the call's keyword arguments."""
        return layer.get_submodule(self.spec.attention_name)

    def last_mlp_at(self, at: Int[Tensor, " wanted"]) -> AbstractContextManager[None]:
        """Within, the last layer's MLP runs at these positions of a packed sequence only.

        Nothing but their own hidden states depends on it, so the others' are of no use; what the cache gets is whole.
        """
        if self.experts is not None or not self.spec.mlp_name:
            return nullcontext()
        return only_at(self.layers[-1].get_submodule(self.spec.mlp_name), at)

    def losses(self, notes: Notes) -> dict[str, Loss]:
        """Losses of its own, from what its layers noted: of each document the sum over layers."""
        return {name: Loss.of_documents(torch.stack(notes[name]).sum(0)) for name in self.spec.losses if name in notes}

    def layer_prefix(self) -> str:
        """Prefix before a layer's number in parameter names."""
        return "lm." + self.spec.layer_prefix

    def idle(self) -> tuple[str, ...]:
        return tuple(f"experts.{prefix}" for prefix in self.experts.idle()) if self.experts else ()


@contextmanager
def only_at(module: nn.Module, at: Int[Tensor, " wanted"]) -> Iterator[None]:
    """Within, a module that maps positions (1, n, dim) one by one runs at some of them; elsewhere it gives zeros."""
    lengths: list[int] = []

    def pick(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        lengths.append(given[0].shape[1])
        return (given[0][:, at],)

    def place(_: nn.Module, __: tuple[Tensor], out: Tensor) -> Tensor:
        return out.new_zeros(1, lengths.pop(), out.shape[-1]).index_copy_(1, at, out)

    handles = module.register_forward_pre_hook(pick), module.register_forward_hook(place)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
