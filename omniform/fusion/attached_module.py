"""What fusions share that work inside the backbone's layers: hooks, and the state that reaches them with each call.

Hooks are all that a backbone gets: its modules, weights and names stay, and `detach` leaves the plain language model.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omniform.batch import Fused, State


class Attached(nn.Module):
    """A fusion, which may change what the layers of its backbone do where a call's `fused` holds a state of it.

    `forward(embeds, media: Placed)` gives the embeddings with the media that take positions in place, and the state of
    the call; None where layers have nothing to do. It is called for every batch, also those without media.

    Layers may run again in the backward pass (activation checkpointing), with or without the hooks of the layer
    itself, so what happens inside a layer hangs on its attention, which comes first and gets `fused` each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handles: list[RemovableHandle] = []

    @property
    def in_layers(self) -> bool:
        """Whether it does something inside the backbone's layers."""
        return bool(self._handles)

    def before_layers(self, backbone: Any) -> None:
        """Call `before(number, hidden, state)` with the hidden states that enter each layer, to change them."""
        for number, layer in enumerate(backbone.layers):
            hook = partial(self._before, number)
            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    def before_attention(self, backbone: Any) -> None:
        """Call `enter(number, attention, state, arguments)` before each attention, to give it other arguments."""
        for number, layer in enumerate(backbone.layers):
            hook = partial(self._enter, number)
            attention = backbone.attention_of(layer)
            self._handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))

    def detach(self) -> None:
        """Leave the plain language model behind."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before(self, number: int, hidden: Tensor, state: Any) -> Tensor:
        """Hidden states (rows, positions, dim) for layer `number` instead of those that enter it."""
        return hidden

    def enter(self, number: int, attention: nn.Module, state: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the attention of layer `number`; the state is None where a call has none."""
        return arguments

    def idle(self) -> tuple[str, ...]:
        """Names of parameters that no output depends on."""
        return ()

    def _before(self, number: int, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        state = self._state(named)
        if state is None:
            return None
        hidden, *rest = given
        return (self.before(number, hidden, state), *rest), named

    def _enter(self, number: int, attention: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return given, self.enter(number, attention, self._state(named), named)

    def _state(self, named: dict[str, Any]) -> State | None:
        fused: Fused | None = named.get("fused")
        return fused.states.get(self) if fused else None
